"""What this host does at most, measured in one thread, and its counters of energy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from ..cost.roofline import Roofs

SIZES = (384, 512, 768, 1024)  # of matrices whose product gives the peak
STREAM = 1 << 24  # float32 numbers of an array that no cache holds
REPEATS = 5
POWER = Path("/sys/class/powercap")


def calibrate() -> Roofs:
    """Measure the roofs of this host: some tenths of a second."""
    flops = max(2e-9 * n**3 / _fastest(_product(n)) for n in SIZES)
    x = np.ones(STREAM, np.float32)
    y = np.ones_like(x)
    return Roofs(flops, 2e-9 * x.nbytes / _fastest(lambda: np.copyto(y, x)))


def _product(n: int) -> Callable[[], object]:
    a, b = np.random.default_rng(n).standard_normal((2, n, n), dtype=np.float32)
    c = np.empty_like(a)
    return lambda: np.matmul(a, b, out=c)


def _fastest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = perf_counter()
        run()
        times.append(perf_counter() - begun)
    return min(times)


def joules() -> float | None:
    """Return the energy that the processor's packages have used, by RAPL's counters; None where
    the kernel does not let them be read. They begin anew now and then."""
    try:
        files = sorted(POWER.glob("intel-rapl:[0-9]*/energy_uj"))
        counts = [int(file.read_text()) for file in files if file.parent.name.count(":") == 1]
    except (OSError, ValueError):
        return None
    return 1e-6 * sum(counts) if counts else None
