"""Times of steps that several contenders do in turn, and the peak they are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

WARM_STEPS, WARM_SECONDS = 3, 0.3
LEAST_ROUNDS = 3
SLICE = 0.05  # seconds that a contender gets in a round, if a step takes no longer
SGEMM_SIZES = (384, 512, 768, 1024)
SGEMM_REPEATS = 4


@dataclass
class Contender:
    """Somebody who does the same step as the others; `many`: its steps in a round."""

    name: str
    step: Callable[[], object]
    many: int = 1


@dataclass(frozen=True)
class Times:
    """Milliseconds a step over all rounds."""

    median: float
    min: float


def seconds(step: Callable[[], object], many: int = 1) -> float:
    """Return the seconds that a step takes, the mean of `many`."""
    begun = perf_counter()
    for _ in range(many):
        step()
    return (perf_counter() - begun) / many


def warm_up(contender: Contender) -> None:
    """Let a contender compile, tune and fill caches; choose its steps in a round."""
    begun = perf_counter()
    seconds(contender.step, WARM_STEPS)
    while perf_counter() - begun < WARM_SECONDS:
        contender.step()
    contender.many = max(1, round(SLICE / seconds(contender.step)))
    seconds(contender.step, contender.many)


def interleave(
    contenders: Sequence[Contender], rounds: int | None, limit: float
) -> dict[str, Times]:
    """Return each contender's times: `rounds` rounds, or as many as `limit` seconds hold, three at
    least. The first of one round is the last of the next."""
    for contender in contenders:
        warm_up(contender)
    taken: dict[str, list[float]] = {c.name: [] for c in contenders}
    begun, done = perf_counter(), 0
    while done < (rounds or LEAST_ROUNDS) or (not rounds and perf_counter() - begun < limit):
        first = done % len(contenders)
        for c in (*contenders[first:], *contenders[:first]):
            taken[c.name].append(1e3 * seconds(c.step, c.many))
        done += 1
    return {name: Times(median(ms), min(ms)) for name, ms in taken.items()}


def sgemm_peak() -> float:
    """Return the GFLOP/s of NumPy's float32 matrix product, the best of some sizes and repeats."""
    return max(_sgemm(n) for n in SGEMM_SIZES)


def _sgemm(n: int) -> float:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n, n), dtype=np.float32)
    c = np.empty_like(a)
    best = min(seconds(lambda: np.matmul(a, b, out=c)) for _ in range(SGEMM_REPEATS))
    return 2e-9 * n**3 / best
