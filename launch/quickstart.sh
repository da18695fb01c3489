#!/usr/bin/env bash
# Trains LeNet on two MPI ranks, from scratch: creates .venv in this repository, installs and runs.
# Usage: launch/quickstart.sh [more options of `tallygrad train`, such as --epochs 5]
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train=(train --model lenet --dataset digits --epochs 2 --batch-size 64 --lr 0.02 --seed 1)

cd "$root"
venv=$root/.venv
make_venv "$venv"
install_into "$venv" "$(choose_mpi "$venv"),llvm"
out=runs/quickstart-$(date +%Y%m%d-%H%M%S)
"$venv/bin/tallygrad" launch -n 2 -- "${train[@]}" --out "$out" "$@"
echo
echo "Inspect it:      .venv/bin/tallygrad inspect $out"
echo "Your own run:    .venv/bin/tallygrad launch -n 4 -- train ...    (.venv/bin/tallygrad train --help)"
