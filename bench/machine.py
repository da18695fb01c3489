"""The core that the benchmarks run on, and a description of this host.

Imports neither NumPy nor torch, because these start their threads when they are imported.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

from tallygrad.trainer import threads

from .options import UsageError

PACKAGES = ("numpy", "torch", "llvmlite")


def limit_threads() -> None:
    """Let this process compute with one thread. Call it before NumPy is imported."""
    os.environ.update(dict.fromkeys(threads.THREAD_VARIABLES, "1"))
    threads.configure()


def settle(core: int | None) -> int | None:
    """Pin this process to one core and one thread. Call it before NumPy is imported.

    Returns the core: `core`, or the last that the process may use; None if the system cannot pin
    processes. Raises UsageError for a core that this process may not use.
    """
    limit_threads()
    # The workers of torch.compile would compete for the core.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if not hasattr(os, "sched_setaffinity"):
        if core is not None:
            raise UsageError(
                f"--core: expected none, as this system cannot pin processes, got {core}"
            )
        return None
    allowed = sorted(os.sched_getaffinity(0))
    # Not the first by default: it often handles interrupts.
    chosen = allowed[-1] if core is None else core
    if chosen not in allowed:
        cores = ", ".join(map(str, allowed))
        raise UsageError(f"--core: expected one of {cores}, got {core}")
    os.sched_setaffinity(0, {chosen})
    return chosen


def describe(core: int | None, backend: str, peak: float, notes: list[str]) -> dict[str, Any]:
    """Return what is needed to interpret results, for JSON; `peak` is the sgemm peak in GFLOP/s."""
    # Imported here because it imports NumPy.
    from tallygrad.trainer.provenance import package_version, processor

    return {
        "cpu": processor(),
        "core": core,
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
        "backend": backend,
        "sgemm_peak_gflops": peak,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }
