"""The time of a data-parallel training step on more ranks than there are here, by arithmetic on a
calibration and a network file.

A step takes as long as the slowest rank computes, plus the part of the exchange that its backward
sweep does not hide, plus the sum of loss and metrics. Gradients are exchanged in buckets, one after
the other, each as soon as its last gradient is final (`distributed/sync.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..workload import Work
from .allreduce import Group, Link, allreduce, sharded
from .fitness import bounds
from .network import Network
from .step_time import Step, StepTimes

METRICS = 24  # bytes of a step's loss, metrics and samples, in float64
LATEST = 0.95  # the highest quantile of steps that is used; too few were measured beyond it


class TimedBucket(NamedTuple):
    """Gradients that are exchanged together: their bytes, and the seconds after which the last of
    them is final."""

    size: int
    ready: float


class Exposed(NamedTuple):
    """Seconds of an exchange: the whole of it, and the part that ranks wait for."""

    whole: float
    exposed: float


class Row(NamedTuple):
    """The predicted step on a number of ranks; times in seconds.

    `batch` is that of the rank with most images, `images` that of all ranks. `seconds` is the sum
    of `compute`, of `waiting` for the slowest rank and of `exposed` communication. Ranges are
    present where the calibration is unfit.
    """

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
    """Return gradients of `sizes` bytes, in the order in which they are final, cut into buckets of
    at least `least` bytes like those of `GradientSync`; the last one may be smaller."""
    cut: list[TimedBucket] = []
    size, final = 0, 0.0
    for i, (more, moment) in enumerate(zip(sizes, ready, strict=True)):
        size, final = size + more, max(final, moment)
        if size >= least or i == len(sizes) - 1:
            cut.append(TimedBucket(size, final))
            size, final = 0, 0.0
    return cut


def exposed(starts: Sequence[float], takes: Sequence[float], sweep: float, overlap: float) -> float:
    """Return the seconds that ranks wait for exchanges after a sweep that ends at `sweep`.

    An exchange begins when its bucket is final and the previous exchange is over. `overlap` is the
    share of it that MPI carries out while ranks compute; at 0 all exchanges follow the sweep.
    """
    over = 0.0
    for start, taken in zip(starts, takes, strict=True):
        over = max(over, start) + taken
    return overlap * max(over - sweep, 0.0) + (1 - overlap) * sum(takes)


def group(network: Network, ranks: int) -> Group:
    """Return the ranks and their links. Links inside a host are slowed down by the measured ratio
    of its MPI to the formulas. Without a link between hosts, the one inside is used. ValueError for
    a network without link or exchange."""
    if network.inside is None or network.exchange is None:
        raise ValueError(
            f"{network.name}: expected a link inside a host and an exchange, got "
            f"{network.inside} and {network.exchange}; a calibration measures both"
        )
    latency, bandwidth, _ = network.inside
    reduction, _, factor = network.exchange
    inside = Link(latency * factor, bandwidth / factor)
    return Group(ranks, network.per_host, inside, network.between or inside, reduction / factor)


def exchange(
    network: Network,
    ranks: int,
    cut: Sequence[TimedBucket],
    sweep: float,
    algorithm: str = "auto",
    shards: bool = False,
) -> tuple[Exposed, str]:
    """Return the seconds of a step's exchange, of gradients and then of loss and metrics, and the
    algorithm of its largest bucket. With `shards` of the optimizer's state, weights come last."""
    if ranks == 1:
        return Exposed(0.0, 0.0), "none"
    members = group(network, ranks)
    assert network.exchange is not None
    last, _ = allreduce(members, METRICS, algorithm)
    if shards:
        halves = [sharded(members, bucket.size, algorithm) for bucket in cut]
        each = [(seconds, name) for seconds, _, name in halves]
        last += sum(seconds for _, seconds, _ in halves)  # nothing hides it
    else:
        each = [allreduce(members, bucket.size, algorithm) for bucket in cut]
    takes = [seconds for seconds, _ in each]
    # A row names one algorithm: that of the largest bucket, which takes the most time.
    largest = max(range(len(cut)), key=lambda i: cut[i].size)
    overlap = network.exchange.overlap
    waits = exposed([bucket.ready for bucket in cut], takes, sweep, overlap) + last
    return Exposed(sum(takes) + last, waits), each[largest][1]


def predict(
    times: StepTimes, network: Network, ranks: int, share: int, images: int, least: int,
    algorithm: str = "auto", shards: bool = False,
) -> Row:  # fmt: skip
    """Return the step on a number of ranks, of which the one with most has `share` of the `images`;
    buckets have at least `least` bytes.

    The median time of the slowest of p ranks is the quantile 0.5^(1/p) of a single rank's times, if
    their times are independent.
    """
    step: Step = times.at(share, min(ranks, network.per_host))
    middle = step.quantile(0.5)
    slowest = step.quantile(min(0.5 ** (1 / ranks), LATEST))
    cut = buckets(times.bytes, step.ready, least)
    sent, name = exchange(network, ranks, cut, step.sweep, algorithm, shards)
    hosts = -(-ranks // network.per_host)
    seconds = slowest + sent.exposed
    return Row(
        ranks, hosts, share, images, seconds, middle, slowest - middle, sent.whole, sent.exposed,
        name,
    )  # fmt: skip


def scale(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    least: int, algorithm: str = "auto", shards: bool = False,
) -> list[Row]:  # fmt: skip
    """Return the step on each number of ranks, with `batch` images per rank ("weak" scaling) or for
    all ranks together ("strong"), where more ranks than images are left out. Efficiency is images
    per second and rank, over those of a single rank."""
    alone = predict(times, network, 1, batch, batch, least)
    rows = []
    for p in ranks:
        if scaling == "strong" and p > batch:
            continue
        share, images = (batch, batch * p) if scaling == "weak" else (-(-batch // p), batch)
        row = predict(times, network, p, share, images, least, algorithm, shards)
        rate = images / row.seconds / p
        rows.append(row._replace(efficiency=rate / (batch / alone.seconds)))
    return rows


def scale_between(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    least: int, algorithm: str = "auto", shards: bool = False,
) -> list[Row]:  # fmt: skip
    """Return the rows of `scale` for an unfit calibration, with the ranges that its bounds give."""
    low, high = bounds(times)
    rows = [
        scale(some, network, ranks, batch, scaling, least, algorithm, shards)
        for some in (low, times, high)
    ]
    most = 1.0 if scaling == "weak" else math.inf  # fewer images of a rank may fit into its caches
    return [_ranged(a, b, c, most) for a, b, c in zip(*rows, strict=True)]


def _ranged(low: Row, row: Row, high: Row, most: float) -> Row:
    """Return a row with the ranges spanned by a lower and an upper bound. Efficiency compares two
    times, so its ends pair the low end of one with the high end of the other."""
    ends = low.seconds / high.seconds
    seconds = min(low.seconds, row.seconds), max(high.seconds, row.seconds)
    least, most = low.efficiency * ends, min(high.efficiency / ends, most)
    if row.ranks == 1:  # beside itself
        least = most = row.efficiency
    efficiency = min(least, row.efficiency), max(most, row.efficiency)
    return row._replace(seconds_range=seconds, efficiency_range=efficiency)


class RankMemory(NamedTuple):
    """Bytes on a rank. `momentum` are all slots of the optimizer, `results` the most that are alive
    at once, `kept_for_backward` the part of them that the tape saves."""

    weights: int
    gradients: int
    momentum: int
    results: int
    kept_for_backward: int

    @property
    def total(self) -> int:
        """Bytes of weights, gradients, momentum and results."""
        return self.weights + self.gradients + self.momentum + self.results

    def to_json(self) -> dict[str, int]:
        """Return what `tallygrad plan --json` prints."""
        *parts, for_backward = self._asdict().items()
        return {**dict(parts), "total": self.total, for_backward[0]: for_backward[1]}


def memory(work: Work, shards: int = 1) -> RankMemory:
    """Return the bytes on a rank: float32 weights, gradients and slots of the optimizer, of which a
    rank has one of so many `shards`, and the most results that are alive at once."""
    each = 4 * work.parameters
    slots = work.slots * 4 * -(-work.parameters // shards)
    return RankMemory(each, each, slots, work.peak, sum(layer.stashed for layer in work.layers))
