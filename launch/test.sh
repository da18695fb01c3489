#!/usr/bin/env bash
# Runs the test suite of this checkout in $TALLYGRAD_VENV, otherwise the active environment or .venv.
# Usage: launch/test.sh [options of pytest, such as -k tape -x]
# Up to four processes share the tests. -s and --pdb need a single process (-n 0); for more than four,
# set --maxprocesses too.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

venv=${TALLYGRAD_VENV:-${VIRTUAL_ENV:-$root/.venv}}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
make_venv "$venv"
install_into "$venv" "$(choose_mpi "$venv"),llvm,test"
cd "$root"
# Not `python -m pytest`: that would put the root on the path, and with it a bare `autograd`.
exec "$venv/bin/pytest" --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
