"""Help is light: no command's help loads the engine, NumPy, h5py or MPI."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tallygrad.trainer.cli import COMMANDS

HEAVY = ("h5py", "mpi4py", "numpy", "tallygrad.autograd")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from tallygrad.trainer.cli import main;"
        "status = main([sys.argv[1], '--help']);"
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"tallygrad {command}" in done.stdout
