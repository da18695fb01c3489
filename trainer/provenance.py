"""Where a result comes from: versions, machine, command, state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..autograd import get_num_threads
from .distributed.comm import Comm

PACKAGES = ("tallygrad", "numpy", "mpi4py", "h5py", "tqdm", "llvmlite")


def collect(comm: Comm, seed: int) -> dict[str, Any]:
    """Return what somebody needs to repeat a run, or to doubt it."""
    return {
        "command": sys.argv,
        "seed": seed,
        "ranks": comm.size,
        "threads_per_rank": get_num_threads(),
        "mpi_library": comm.library,
        "host": platform.node(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "git": _git(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if _matters(k)},
    }


def _matters(name: str) -> bool:
    return name.startswith(("OMP_", "OPENBLAS_", "MKL_", "TALLYGRAD_"))


def package_version(name: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git() -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that the code runs from, None outside one."""
    folder = Path(__file__).resolve().parent

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
        )
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
