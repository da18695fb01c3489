"""The time of a data-parallel training step on more ranks than there are here, by arithmetic on a
calibration and a network file.

A step takes as long as the slowest rank computes, plus the part of the exchange that its backward
sweep does not hide. What is exchanged is in `transfers.py`: gradients in buckets, one after the
other, each as soon as its last gradient is final (`distributed/sync.py`), then figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..workload import Work
from .fitness import bounds
from .micro_batches import Split, split
from .network import Network
from .step_time import Step, StepTimes
from .traffic import Group, Link, Traffic
from .transfers import ExchangeSettings, transfers

LATEST = 0.95  # the highest quantile of steps that is used; too few were measured beyond it


class StepExchange(NamedTuple):
    """A step's exchange: its seconds, those that ranks wait for, what it asks of links and ranks,
    and the algorithm of its longest transfer: a row names one."""

    whole: float = 0.0
    exposed: float = 0.0
    traffic: Traffic = Traffic()
    algorithm: str = "none"


class Row(NamedTuple):
    """The predicted step on a number of ranks; times in seconds.

    `batch` is that of the rank with most images, `images` that of all ranks, and `split` tells
    their micro-batches. `seconds` is the sum
    of `compute`, of `waiting` for the slowest rank and of `exposed` communication, whose `traffic`
    is that of the whole step. Ranges are present where the calibration is unfit.
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
    traffic: Traffic = Traffic()
    mpi: float = 0.0
    mpi_algorithm: str = "none"
    split: Split = Split(1, 1, 1, 1, 1, 1)


def exposed(behind: Sequence[tuple[float, float]], sweep: float, overlap: float) -> float:
    """Return the seconds that ranks wait for exchanges after a sweep that ends at `sweep`: each
    (when it can begin, seconds that it takes), one after the other.

    `overlap` is the share of an exchange that MPI carries out while ranks compute; at 0 all follow
    the sweep.
    """
    over = 0.0
    for start, taken in behind:
        over = max(over, start) + taken
    whole = sum(taken for _, taken in behind)
    return overlap * max(over - sweep, 0.0) + (1 - overlap) * whole


def group(network: Network, ranks: int, algorithm: str = "mpi") -> Group:
    """Return the ranks and their links. Links inside a host are slowed down by the measured ratio
    of the algorithm to its formula, and additions where ranks take turns on a core. Without a link
    between hosts, the one inside is used.
    ValueError for a network without link or exchange."""
    if network.inside is None or network.exchange is None:
        raise ValueError(
            f"{network.name}: expected a link inside a host and an exchange, got "
            f"{network.inside} and {network.exchange}; a calibration measures both"
        )
    latency, bandwidth, _ = network.inside
    factor = network.exchange.slowness(algorithm)
    inside = Link(latency * factor, bandwidth / factor)
    reduction = network.exchange.reduction / factor / network.turns(ranks)
    return Group(ranks, network.per_host, inside, network.between or inside, reduction)


def exchange(
    network: Network, ranks: int, times: StepTimes, step: Step, settings: ExchangeSettings
) -> StepExchange:
    """Return a step's exchange on a number of ranks."""
    if ranks == 1:
        return StepExchange()
    assert network.exchange is not None
    algorithm = settings.on(ranks, min(ranks, network.per_host))
    members = group(network, ranks, algorithm)
    parts = transfers(members, times.bytes, step.ready, settings)
    takes = [members.seconds(part.traffic) + part.work for part in parts]
    pairs = [*zip(parts, takes, strict=True)]
    behind = [(part.ready, taken) for part, taken in pairs if part.ready is not None]
    blocking = sum(taken for part, taken in pairs if part.ready is None)
    waits = exposed(behind, step.sweep, network.exchange.share(settings.overlap)) + blocking
    longest = max(range(len(takes)), key=takes.__getitem__)
    whole = sum((part.traffic for part in parts), Traffic())
    return StepExchange(sum(takes), waits, whole, parts[longest].algorithm)


def predict(
    times: StepTimes, network: Network, ranks: int, images: int, settings: ExchangeSettings
) -> Row:
    """Return the step of so many `images` on a number of ranks.

    The median time of the slowest of p ranks is the quantile 0.5^(1/p) of a single rank's times, if
    their times are independent. Over m micro-batches, and over H steps without an exchange, its
    lead over the median grows by the root of their number, as that of a sum of independent times.
    """
    parts = split(images, ranks, network.per_host, settings.micro_batches)
    step = _computation(times, network, parts)
    middle = step.quantile(0.5)
    lead = step.quantile(min(0.5 ** (1 / parts.working), LATEST)) - middle
    waiting = lead * (parts.most / max(settings.local_steps, 1)) ** 0.5
    sent = exchange(network, ranks, times, step, settings)
    plain = settings._replace(algorithm="mpi", compression=None)
    mpi = exchange(network, ranks, times, step, plain)
    hosts = -(-ranks // network.per_host)
    seconds = middle + waiting + sent.exposed
    return Row(
        ranks, hosts, parts.images, images, seconds, middle, waiting, sent.whole, sent.exposed,
        sent.algorithm, traffic=sent.traffic, mpi=mpi.whole, mpi_algorithm=mpi.algorithm,
        split=parts,
    )  # fmt: skip


def _computation(times: StepTimes, network: Network, parts: Split) -> Step:
    """Return the step of the rank with most micro-batches, all of them as long as the largest. From
    one to the next, gradients are set aside, a copy, and added to those before."""
    step, between = times.at(parts.size, network.busy(parts.busy)), 0.0
    if parts.most > 1:
        assert network.exchange is not None
        between = 2 * sum(times.bytes) / network.exchange.reduction
    return step.repeated(parts.most, between).slowed(network.turns(parts.busy))


def scale(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    least: int, algorithm: str = "auto", **others: Any,
) -> list[Row]:  # fmt: skip
    """Return the step on each number of ranks, with `batch` images per rank ("weak" scaling) or for
    all ranks together ("strong"), where more ranks than images are left out. Gradients are
    exchanged in buckets of at least `least` bytes by an algorithm; `others` are fields of
    `ExchangeSettings`. Efficiency is images per second and rank, over those of a single rank."""
    return rows(times, network, ranks, batch, scaling, ExchangeSettings(least, algorithm, **others))


def rows(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    settings: ExchangeSettings,
) -> list[Row]:  # fmt: skip
    """Return what `scale` does."""
    alone = predict(times, network, 1, batch, settings)
    found = []
    for p in ranks:
        if scaling == "strong" and p > batch:
            continue
        images = batch * p if scaling == "weak" else batch
        row = predict(times, network, p, images, settings)
        rate = images / row.seconds / p
        found.append(row._replace(efficiency=rate / (batch / alone.seconds)))
    return found


def rows_between(
    times: StepTimes, network: Network, ranks: Sequence[int], batch: int, scaling: str,
    settings: ExchangeSettings,
) -> list[Row]:  # fmt: skip
    """Return the rows for an unfit calibration, with the ranges that its bounds give."""
    low, high = bounds(times)
    each = [rows(some, network, ranks, batch, scaling, settings) for some in (low, times, high)]
    # Fewer images of a rank may fit into its caches, and fewer micro-batches take less time.
    most = math.inf if scaling == "strong" or settings.micro_batches else 1.0
    return [_ranged(a, b, c, most) for a, b, c in zip(*each, strict=True)]


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


def memory(
    work: Work, shards: int = 1, local: bool = False, micro_batches: int = 1
) -> RankMemory:  # fmt: skip
    """Return the bytes on a rank: float32 weights, gradients and slots of the optimizer, of which a
    rank has one of so many `shards`, and the most results that are alive at once. A rank with
    `local` steps also has the weights of the last synchronisation, and outer momentum; one with
    several `micro_batches` a step the sums of branches of their tree that wait for the rest, one a
    level."""
    each = 4 * work.parameters
    slots = work.slots * 4 * -(-work.parameters // shards)
    kept = sum(layer.stashed for layer in work.layers)
    gradients = micro_batches.bit_length() * each
    return RankMemory((1 + local) * each, gradients, slots + local * each, work.peak, kept)
