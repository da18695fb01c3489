"""What a step of data-parallel training takes on more ranks than there are here: pure arithmetic on
what a calibration measured and a network file says.

A step is what the slowest rank computes, then what of the exchange does not hide behind its
backward sweep, then the sum of loss and metrics. Gradients go in buckets, one after the other, each
from when its last gradient is final (`distributed/sync.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..workload import Work
from .allreduce import Group, Link, allreduce
from .fitness import bounds
from .network import Network
from .step_time import Step, StepTimes

METRICS = 24  # bytes of a step's loss, metrics and samples, in float64
LATEST = 0.95  # quantile of steps beyond which few were measured


class TimedBucket(NamedTuple):
    """Gradients that are exchanged at once: their bytes, and when the last of them is final."""

    size: int
    ready: float


class Exposed(NamedTuple):
    """Seconds of an exchange: all of it, and what of it ranks wait for."""

    whole: float
    exposed: float


class Row(NamedTuple):
    """A plan for a number of ranks. `batch` is of the rank with most images; `waiting` is for the
    slowest rank, `exposed` for messages, both within `seconds`. Ranges are there where the
    calibration is unfit."""

    ranks: int
    hosts: int
    batch: int
    images: int
    seconds: float
    compute: float
    waiting: float
    communication: float
    exposed: float
    algorithm: str
    efficiency: float = 0.0
    seconds_range: tuple[float, float] | None = None
    efficiency_range: tuple[float, float] | None = None


def buckets(sizes: Sequence[int], ready: Sequence[float], least: int) -> list[TimedBucket]:
    """Cut gradients of so many bytes, in the order in which they are final, into buckets of `least`
    bytes or more, as `GradientSync` does; the last one may be smaller."""
    cut: list[TimedBucket] = []
    size, final = 0, 0.0
    for i, (more, moment) in enumerate(zip(sizes, ready, strict=True)):
        size, final = size + more, max(final, moment)
        if size >= least or i == len(sizes) - 1:
            cut.append(TimedBucket(size, final))
            size, final = 0, 0.0
    return cut


def exposed(starts: Sequence[float], takes: Sequence[float], sweep: float, overlap: float) -> float:
    """Return the seconds that ranks wait for exchanges behind a sweep that ends at `sweep`. One
    begins when its bucket is final and the one before it is over. `overlap` is the share of that
    which MPI does meanwhile: without any all of it comes after the sweep."""
    over = 0.0
    for start, taken in zip(starts, takes, strict=True):
        over = max(over, start) + taken
    return overlap * max(over - sweep, 0.0) + (1 - overlap) * sum(takes)


def group(network: Network, ranks: int) -> Group:
    """Return the ranks and their links, those inside a host as much slower as its MPI is than the
    formulas; hosts reach one another as ranks of a host do where the network does not say.
    ValueError for a network that is not complete."""
    if network.inside is None or network.exchange is None:
        raise ValueError(f"{network.name}: the link inside a host was not measured")
    latency, bandwidth, _ = network.inside
    reduction, _, factor = network.exchange
    inside = Link(latency * factor, bandwidth / factor)
    return Group(ranks, network.per_host, inside, network.between or inside, reduction / factor)


def exchange(
    network: Network, ranks: int, cut: Sequence[TimedBucket], sweep: float, algorithm: str = "auto"
) -> tuple[Exposed, str]:
    """Return the seconds of a step's exchange, loss and metrics behind the gradients, and the
    algorithm of its largest bucket."""
    if ranks == 1:
        return Exposed(0.0, 0.0), "none"
    members = group(network, ranks)
    assert network.exchange is not None
    each = [allreduce(members, bucket.size, algorithm) for bucket in cut]
    takes = [seconds for seconds, _ in each]
    last, _ = allreduce(members, METRICS, algorithm)
    largest = max(range(len(cut)), key=lambda i: cut[i].size)
    overlap = network.exchange.overlap
    waits = exposed([bucket.ready for bucket in cut], takes, sweep, overlap) + last
    return Exposed(sum(takes) + last, waits), each[largest][1]


def predict(
    times: StepTimes, network: Network, ranks: int, share: int, images: int, least: int,
    algorithm: str = "auto",
) -> Row:  # fmt: skip
    """Return the plan for some ranks of which the one with most has `share` of a step's `images`;
    buckets have `least` bytes. The median of the slowest of p ranks is a rank's quantile
    0.5^(1/p), where their times are independent."""
    step: Step = times.at(share, min(ranks, network.per_host))
    middle = step.quantile(0.5)
    slowest = step.quantile(min(0.5 ** (1 / ranks), LATEST))
    cut = buckets(times.bytes, step.ready, least)
    sent, name = exchange(network, ranks, cut, step.sweep, algorithm)
    hosts = -(-ranks // network.per_host)
    seconds = slowest + sent.exposed
    return Row(
        ranks, hosts, share, images, seconds, middle, slowest - middle, sent.whole, sent.exposed,
        name,
    )  # fmt: skip


def scale(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    least: int, algorithm: str = "auto",
) -> list[Row]:  # fmt: skip
    """Return plans for numbers of ranks, with `batch` images for each rank (weak scaling) or for
    all of them together (strong), which leaves out more ranks than images. Efficiency is images a
    second and rank, over those of one rank."""
    alone = predict(times, network, 1, batch, batch, least)
    rows = []
    for p in ranks:
        if scaling == "strong" and p > batch:
            continue
        share, images = (batch, batch * p) if scaling == "weak" else (-(-batch // p), batch)
        row = predict(times, network, p, share, images, least, algorithm)
        rate = images / row.seconds / p
        rows.append(row._replace(efficiency=rate / (batch / alone.seconds)))
    return rows


def scale_between(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    least: int, algorithm: str = "auto",
) -> list[Row]:  # fmt: skip
    """Return what `scale` does for an unfit calibration, with the ranges that it allows."""
    low, high = bounds(times)
    rows = [
        scale(some, network, ranks, batch, scaling, least, algorithm) for some in (low, times, high)
    ]
    most = 1.0 if scaling == "weak" else math.inf  # fewer images of a rank may fit into its caches
    return [_ranged(a, b, c, most) for a, b, c in zip(*rows, strict=True)]


def _ranged(low: Row, row: Row, high: Row, most: float) -> Row:
    """Return a row with the ranges between two others: of its time, and of one rank's time beside
    it, each at its own end."""
    ends = low.seconds / high.seconds
    seconds = min(low.seconds, row.seconds), max(high.seconds, row.seconds)
    least, most = low.efficiency * ends, min(high.efficiency / ends, most)
    if row.ranks == 1:  # beside itself
        least = most = row.efficiency
    efficiency = min(least, row.efficiency), max(most, row.efficiency)
    return row._replace(seconds_range=seconds, efficiency_range=efficiency)


class RankMemory(NamedTuple):
    """Bytes of a rank; `kept_for_backward` is a part of `results`, the most that are alive at
    once."""

    weights: int
    gradients: int
    momentum: int
    results: int
    kept_for_backward: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.momentum + self.results

    def to_json(self) -> dict[str, int]:
        """Return what `tallygrad plan --json` prints."""
        *parts, for_backward = self._asdict().items()
        return {**dict(parts), "total": self.total, for_backward[0]: for_backward[1]}


def memory(work: Work) -> RankMemory:
    """Return the bytes of a rank: float32 weights, gradients and momentum, and the most results
    that are alive at once, of which what the tape keeps for the way back is a part."""
    each = 4 * work.parameters
    return RankMemory(each, each, each, work.peak, sum(layer.stashed for layer in work.layers))
