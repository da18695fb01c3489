"""The time of an allreduce, over links inside hosts and between them.

Formulas: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH" (2005), and Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of
Workstations" (2009). p ranks reduce n bytes. A message of m bytes takes latency + m / bandwidth
seconds, and adding m bytes takes m / reduction. The ranks of a host share the link that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log2
from typing import NamedTuple


class Link(NamedTuple):
    """The link between two ranks: latency in seconds, bandwidth in bytes per second, and the source
    of both numbers."""

    latency: float
    bandwidth: float
    source: str = ""

    def seconds(self, size: float) -> float:
        """Return the seconds of a message of `size` bytes."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Group:
    """Ranks that reduce jointly, `per_host` of them on a host, and their links; `reduction` is the
    speed at which a rank adds, in bytes per second."""

    ranks: int
    per_host: int
    inside: Link
    between: Link
    reduction: float

    @property
    def hosts(self) -> int:
        """The number of hosts; the last one may have fewer ranks."""
        return -(-self.ranks // self.per_host)

    @property
    def local(self) -> int:
        """The number of ranks on a full host."""
        return min(self.ranks, self.per_host)


def ring_volume(size: int, ranks: int) -> Fraction:
    """Return the bytes that a rank sends to reduce `size` bytes over a ring, 2 (p - 1) / p of them
    (Patarasuk and Yuan 2009). Recursive halving and doubling send as many."""
    return Fraction(2 * (ranks - 1) * size, ranks)


def doubling_volume(size: int, ranks: int) -> float:
    """Return the bytes that a rank sends by recursive doubling among a power of two of ranks: all
    `size` bytes, log2(p) times (Thakur, Rabenseifner and Gropp 2005)."""
    return log2(ranks) * size


def ring(group: Group, size: float) -> float:
    """Return the seconds of a ring allreduce (Patarasuk and Yuan 2009):
    2 (p-1) (latency + n/p / bandwidth) + (p-1)/p n / reduction. On several hosts every step waits
    for its slowest link."""
    p = group.ranks
    step = group.inside.seconds(size / p) if group.local > 1 else 0.0
    if group.hosts > 1:
        step = max(step, group.between.seconds(size / p))
    return 2 * (p - 1) * step + (p - 1) / p * size / group.reduction


def recursive_doubling(group: Group, size: float) -> float:
    """Return the seconds of recursive doubling (Thakur, Rabenseifner and Gropp 2005):
    lg p (latency + n / bandwidth + n / reduction). All ranks of a host share its link. Ranks beyond
    a power of two hand over their array first and receive the sum last."""
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
    """Return the seconds of Rabenseifner's algorithm, recursive halving and then doubling (Thakur,
    Rabenseifner and Gropp 2005): 2 lg p latency + 2 (p-1)/p n / bandwidth + (p-1)/p n / reduction.

    Distant ranks exchange first, and the most: of p ranks on h hosts each sends (h-1)/h n through
    its host's link, and the rest inside the host.
    """
    p, h = group.ranks, group.hosts
    levels, outer = ceil(log2(p)), ceil(log2(h))
    far = outer * group.between.latency
    far += group.local * (1 - 1 / h) * size / group.between.bandwidth
    near = (levels - outer) * group.inside.latency + (1 / h - 1 / p) * size / group.inside.bandwidth
    return 2 * (far + near) + (1 - 1 / p) * size / group.reduction


def hierarchical(group: Group, size: float) -> float:
    """Return the seconds of a hierarchical allreduce: reduce-scatter over a ring inside each host,
    Rabenseifner's allreduce of the pieces between hosts, where all ranks of a host share its link,
    and allgather over a ring inside each host."""
    r, h = group.local, group.hosts
    within = 2 * (r - 1) * group.inside.seconds(size / r) + (1 - 1 / r) * size / group.reduction
    far = ceil(log2(h)) * group.between.latency + (1 - 1 / h) * size / group.between.bandwidth
    return within + 2 * far + (1 - 1 / h) * size / r / group.reduction


def sharded(group: Group, size: float, algorithm: str = "auto") -> tuple[float, float, str]:
    """Return the seconds of a reduce-scatter and of an allgather of `size` bytes, and the algorithm
    whose first and second half they are. ValueError for an algorithm without halves."""
    if group.ranks == 1:
        return 0.0, 0.0, "none"
    if algorithm not in ("auto", *HALVED):
        raise ValueError(f"sharded: expected one of {', '.join(HALVED)}, got {algorithm}")
    tried = HALVED if algorithm == "auto" else (algorithm,)
    seconds, name = min((ALGORITHMS[name](group, size), name) for name in tried)
    # Both halves send the same; the first one also adds.
    adding = (1 - 1 / group.ranks) * size / group.reduction
    gather = (seconds - adding) / 2
    return seconds - gather, gather, name


HALVED = ("ring", "rabenseifner")
ALGORITHMS: dict[str, Callable[[Group, float], float]] = {
    "recursive-doubling": recursive_doubling,
    "ring": ring,
    "rabenseifner": rabenseifner,
    "hierarchical": hierarchical,
}


def allreduce(group: Group, size: float, algorithm: str = "auto") -> tuple[float, str]:
    """Return the seconds of an allreduce of `size` bytes, and its algorithm. "auto" is the fastest,
    as a well-tuned MPI would choose; a single rank takes no time by "none"."""
    if group.ranks == 1:
        return 0.0, "none"
    tried = [algorithm] if algorithm != "auto" else [*ALGORITHMS]
    if algorithm == "auto" and group.hosts == 1:
        tried.remove("hierarchical")  # on one host it is the ring
    return min((ALGORITHMS[name](group, size), name) for name in tried)
