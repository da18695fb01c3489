"""The core that everything runs on, and what else has to be known of it. Loads neither NumPy nor
torch: their threads start as they are imported."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
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
        raise UsageError(f"--core: expected one of {known}, got {core}")
    os.sched_setaffinity(0, {chosen})
    return chosen


def describe(core: int | None, backend: str, peak: float, notes: list[str]) -> dict[str, Any]:
    """Return what somebody needs to judge the figures; `peak` is that of sgemm, in GFLOP/s."""
    # Here, since it loads NumPy, whose threads must be settled before.
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
