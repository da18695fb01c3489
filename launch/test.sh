#!/usr/bin/env bash
# Runs the test suite on this checkout, in $TALLYGRAD_VENV, else the active environment, else .venv.
# Usage: launch/test.sh [arguments of pytest, such as -k tape -x]
# Up to four processes share the tests; -n 0 runs all in one, which -s and --pdb need, and more than
# four take --maxprocesses too.
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
