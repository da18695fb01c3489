"""Times of the same step for several contenders in turn, and the peak to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

# At least: traced steps are captured in the second call, and torch compiles in the first.
WARM_STEPS, WARM_SECONDS = 3, 0.3
LEAST_ROUNDS = 3
SLICE = 0.05  # seconds of a contender's steps per round; at least one step
SGEMM_SIZES = (384, 512, 768, 1024)
SGEMM_REPEATS = 4


@dataclass
class Contender:
    """An implementation of the step to be timed; `many` is its number of steps per round."""

    name: str
    step: Callable[[], object]
    many: int = 1


@dataclass(frozen=True)
class Times:
    """Milliseconds per step, over all rounds."""

    median: float
    min: float


def seconds(step: Callable[[], object], many: int = 1) -> float:
    """Return the mean time of `many` steps, in seconds per step."""
    start = perf_counter()
    for _ in range(many):
        step()
    return (perf_counter() - start) / many


def warm_up(contender: Contender) -> None:
    """Let a contender compile, tune and fill caches, and choose its number of steps per round."""
    start = perf_counter()
    seconds(contender.step, WARM_STEPS)
    while perf_counter() - start < WARM_SECONDS:
        contender.step()
    contender.many = max(1, round(SLICE / seconds(contender.step)))
    seconds(contender.step, contender.many)


def interleave(
    contenders: Sequence[Contender], rounds: int | None, limit: float
) -> dict[str, Times]:
    """Return the times of each contender by name.

    Runs `rounds` rounds or, if that is None, as many as fit into `limit` seconds, but at least
    three. The order rotates: the first contender of a round is the last of the next, so that a
    core that slows down for a while slows all alike.
    """
    for contender in contenders:
        warm_up(contender)
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    start, done = perf_counter(), 0
    while done < (rounds or LEAST_ROUNDS) or (not rounds and perf_counter() - start < limit):
        first = done % len(contenders)
        for c in (*contenders[first:], *contenders[:first]):
            times[c.name].append(1e3 * seconds(c.step, c.many))
        done += 1
    return {name: Times(median(ms), min(ms)) for name, ms in times.items()}


def sgemm_peak() -> float:
    """Return the highest GFLOP/s of NumPy's float32 matrix product, over sizes and repeats."""
    return max(_sgemm(n) for n in SGEMM_SIZES)


def _sgemm(n: int) -> float:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n, n), dtype=np.float32)
    c = np.empty_like(a)
    best = min(seconds(lambda: np.matmul(a, b, out=c)) for _ in range(SGEMM_REPEATS))
    return 2e-9 * n**3 / best
