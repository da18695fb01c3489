"""How long an allreduce takes: the formulas of Thakur, Rabenseifner and Gropp (2005) and of
Patarasuk and Yuan (2009), over links inside hosts and between them.

p ranks reduce n bytes; a message of m bytes takes latency + m / bandwidth, and adding m bytes takes
m / reduction. The ranks of a host share the link that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log2
from typing import NamedTuple


class Link(NamedTuple):
    """What joins two ranks: seconds before the first byte, bytes a second, and whence we know."""

    latency: float
    bandwidth: float
    source: str = ""

    def seconds(self, size: float) -> float:
        """Return the time of a message of so many bytes."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Group:
    """`ranks` ranks, `per_host` on a host, and their links; `reduction` is in bytes a second."""

    ranks: int
    per_host: int
    inside: Link
    between: Link
    reduction: float

    @property
    def hosts(self) -> int:
        """Number of hosts, of which the last one may have fewer ranks."""
        return -(-self.ranks // self.per_host)

    @property
    def local(self) -> int:
        """Ranks of a host that is full."""
        return min(self.ranks, self.per_host)


def ring_volume(size: int, ranks: int) -> Fraction:
    """Return bytes a rank sends to add up `size` bytes over a ring, 2 (p - 1) / p of them
    (Patarasuk and Yuan 2009); reduce-scatter and allgather by halving and doubling send as many."""
    return Fraction(2 * (ranks - 1) * size, ranks)


def doubling_volume(size: int, ranks: int) -> float:
    """Return bytes a rank sends by recursive doubling among a power of two of ranks: all of them,
    log2(p) times (Thakur, Rabenseifner and Gropp 2005)."""
    return log2(ranks) * size


def ring(group: Group, size: float) -> float:
    """Return 2 (p-1) (latency + n/p / bandwidth) + (p-1)/p n / reduction; on several hosts each
    step waits for its slowest link."""
    p = group.ranks
    step = group.inside.seconds(size / p) if group.local > 1 else 0.0
    if group.hosts > 1:
        step = max(step, group.between.seconds(size / p))
    return 2 * (p - 1) * step + (p - 1) / p * size / group.reduction


def recursive_doubling(group: Group, size: float) -> float:
    """Return lg p (latency + n / bandwidth + n / reduction). All ranks of a host send through its
    link at once. Ranks beyond a power of two first hand over their array, and get the sum last."""
    adding = size / group.reduction
    rounds, within = int(log2(group.ranks)), int(log2(group.local))
    outside = rounds - within if group.hosts > 1 else 0
    far = group.between.latency + group.local * size / group.between.bandwidth
    near = group.inside.seconds(size)
    total = (rounds - outside) * (near + adding) + outside * (far + adding)
    if group.ranks & (group.ranks - 1):
        total += 2 * (far if group.hosts > 1 else near) + adding
    return total


def rabenseifner(group: Group, size: float) -> float:
    """Return 2 lg p latency + 2 (p-1)/p n / bandwidth + (p-1)/p n / reduction: halving, then
    doubling. Distant ranks exchange first, and most: of p ranks on h hosts each sends (h-1)/h n
    through the host's link, and the rest within."""
    p, h = group.ranks, group.hosts
    levels, outer = ceil(log2(p)), ceil(log2(h))
    far = outer * group.between.latency
    far += group.local * (1 - 1 / h) * size / group.between.bandwidth
    near = (levels - outer) * group.inside.latency + (1 / h - 1 / p) * size / group.inside.bandwidth
    return 2 * (far + near) + (1 - 1 / p) * size / group.reduction


def hierarchical(group: Group, size: float) -> float:
    """Return a ring's reduce-scatter within each host, Rabenseifner's allreduce of the pieces
    between hosts, all through the host's link at once, and a ring's allgather within."""
    r, h = group.local, group.hosts
    within = 2 * (r - 1) * group.inside.seconds(size / r) + (1 - 1 / r) * size / group.reduction
    far = ceil(log2(h)) * group.between.latency + (1 - 1 / h) * size / group.between.bandwidth
    return within + 2 * far + (1 - 1 / h) * size / r / group.reduction


ALGORITHMS: dict[str, Callable[[Group, float], float]] = {
    "recursive-doubling": recursive_doubling,
    "ring": ring,
    "rabenseifner": rabenseifner,
    "hierarchical": hierarchical,
}


def allreduce(group: Group, size: float, algorithm: str = "auto") -> tuple[float, str]:
    """Return the seconds of an allreduce of so many bytes and the algorithm: for `auto` the
    fastest, as an MPI takes it that chooses well. One rank waits for nobody."""
    if group.ranks == 1:
        return 0.0, "none"
    tried = [algorithm] if algorithm != "auto" else [*ALGORITHMS]
    if algorithm == "auto" and group.hosts == 1:
        tried.remove("hierarchical")  # a ring then
    return min((ALGORITHMS[name](group, size), name) for name in tried)
