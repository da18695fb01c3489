"""What ranks exchange in a step: one list of transfers, whatever the options of `train` make of it.

An option that changes what is sent changes `transfers` and what it calls, and nothing else: sums,
messages, bytes, work and times all come from its list.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from .allreduce import FIXED_ORDER, allreduce, sharded, trained
from .compression import FLOAT_BYTES, Compression
from .traffic import Group, Traffic

METRICS = 24  # bytes of a step's loss, metrics and samples, in float64
STOP = 8  # bytes by which ranks agree whether to go on


class ExchangeSettings(NamedTuple):
    """How `train` exchanges: gradients in buckets of at least `bucket_bytes`, summed by an
    algorithm, "auto" for that of `train`, and driven by "none", "poll", "thread" or the best of
    them, "auto". With `shard_optimizer` each rank gets the sum of its piece, and then the weights
    of all; with a `compression` all ranks get the sums. `norms` are the channels of batch norms
    whose statistics are exchanged. With `local_steps` ranks exchange the change of their weights
    instead, once in so many steps. Gradients are those of `micro_batches` a step over all ranks, 0
    for one a rank; the exchange begins with a rank's last one."""

    bucket_bytes: int
    algorithm: str = "auto"
    overlap: str = "auto"
    shard_optimizer: bool = False
    compression: Compression | None = None
    norms: tuple[int, ...] = ()
    local_steps: int = 0
    micro_batches: int = 0

    def on(self, ranks: int, local: int = 1) -> str:
        """Return the algorithm on a number of ranks, `local` of them on a host."""
        if self.algorithm != "auto":
            return self.algorithm
        if self.shard_optimizer:
            return FIXED_ORDER
        return trained(ranks, 1 if self.compression else local)


class TimedBucket(NamedTuple):
    """Gradients that are exchanged together: their bytes, and the seconds after which the last of
    them is final."""

    size: int
    ready: float


class Transfer(NamedTuple):
    """A part of a step's exchange: what it asks of links and ranks, by which algorithm, and the
    seconds of the step after which it can begin; None where ranks wait for all of it. `work` are
    seconds of a rank's own."""

    traffic: Traffic
    algorithm: str
    ready: float | None = None
    work: float = 0.0


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


def transfers(
    group: Group, sizes: Sequence[int], ready: Sequence[float], settings: ExchangeSettings
) -> list[Transfer]:
    """Return a step's exchange in its order: of gradients of `sizes` bytes, each final after
    `ready` seconds, then of loss and metrics, and of whether to go on."""
    if settings.local_steps:
        return _meeting(group, sum(sizes), settings)
    cut = buckets(sizes, ready, settings.bucket_bytes)
    if settings.compression:
        arrays = _compressed(group, cut, settings, settings.compression)
    else:
        exchange = _shards if settings.shard_optimizer else _sums
        arrays = exchange(group, cut, settings)
    # Figures are summed as gradients are without shards.
    algorithm = settings._replace(shard_optimizer=False).on(group.ranks)
    figures = Transfer(*allreduce(group, METRICS, algorithm))
    # A layer cannot go on without its statistics.
    sums = [Transfer(*allreduce(group, size, algorithm)) for size in statistics(settings.norms)]
    return [*sums, *arrays, figures, Transfer(*allreduce(group, STOP))]


def _meeting(group: Group, size: int, settings: ExchangeSettings) -> list[Transfer]:
    """Return the share of a step in an exchange of weights of `size` bytes every few steps."""
    algorithm = settings.on(group.ranks)
    sums = [(METRICS, algorithm), (size, algorithm), (STOP, "mpi")]
    found = [allreduce(group, n, name) for n, name in sums]
    return [Transfer(traffic * (1 / settings.local_steps), name) for traffic, name in found]


def statistics(channels: Sequence[int]) -> list[int]:
    """Return the bytes of the float32 sums that synchronised batch norms of so many channels
    exchange in a step: of values and their number, of squared deviations, and in the backward pass
    of the gradients of both."""
    return [4 * size for c in channels for size in (c + 1, c, c, c + 1)]


def _sums(group: Group, cut: Sequence[TimedBucket], settings: ExchangeSettings) -> list[Transfer]:
    algorithm = settings.on(group.ranks, group.local)
    return [Transfer(*allreduce(group, size, algorithm), ready) for size, ready in cut]


def _compressed(
    group: Group, cut: Sequence[TimedBucket], settings: ExchangeSettings, how: Compression
) -> list[Transfer]:
    """Return the exchange of what is left of each bucket, compressing, which nothing hides, and
    with shards the allgathers of weights."""
    plain = settings._replace(shard_optimizer=False)
    found, first = [], 0
    for size, ready in cut:
        last, rest = first, size
        while rest > 0:
            rest -= FLOAT_BYTES * prod(how.shapes[last])
            last += 1
        traffic = how.traffic(group, first, last, plain.on(group.ranks))
        found.append(Transfer(traffic, how.scheme, ready))
        first = last
    found.append(Transfer(Traffic(), how.scheme, work=how.seconds(group.ranks)))
    gathers = _shards(group, cut, settings)[len(cut) :] if settings.shard_optimizer else []
    return [*found, *gathers]


def _shards(group: Group, cut: Sequence[TimedBucket], settings: ExchangeSettings) -> list[Transfer]:
    """Return the reduce-scatters, which the sweep can hide, and the allgathers of weights."""
    algorithm = settings.on(group.ranks)
    halves = [(*sharded(group, size, algorithm), ready) for size, ready in cut]
    there = [Transfer(traffic, name, ready) for traffic, _, name, ready in halves]
    return [*there, *[Transfer(traffic, name) for _, traffic, name, _ in halves]]
