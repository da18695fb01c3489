"""The core that everything runs on, and what else has to be known of it. Loads neither NumPy nor
torch: their threads start as they are imported."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tallygrad.trainer import threads

from .options import UsageError

PACKAGES = ("numpy", "torch", "llvmlite")


def settle(core: int | None) -> int | None:
    """Keep this process to one core and one thread, before NumPy is imported. Return the core, None
    where the system cannot pin. UsageError for a core that this process may not use."""
    os.environ.update(dict.fromkeys(threads.THREAD_VARIABLES, "1"))
    threads.configure()
    # torch.compile's workers would share the core with what is measured.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if not hasattr(os, "sched_setaffinity"):
        if core is not None:
            raise UsageError("--core: this system cannot pin a process to a core")
        return None
    allowed = sorted(os.sched_getaffinity(0))
    # Not the first by default: systems like to handle interrupts there.
    chosen = allowed[-1] if core is None else core
    if chosen not in allowed:
        known = ", ".join(map(str, allowed))
        raise UsageError(f"--core: {core} is not allowed; there are {known}")
    os.sched_setaffinity(0, {chosen})
    return chosen


def describe(core: int | None, backend: str, peak: float, notes: list[str]) -> dict[str, Any]:
    """Return what somebody needs to judge the figures; `peak` is that of sgemm, in GFLOP/s."""
    return {
        "cpu": _processor(),
        "core": core,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "backend": backend,
        "sgemm_peak_gflops": peak,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
