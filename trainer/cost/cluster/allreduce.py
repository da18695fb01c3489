"""Sums over ranks: by the algorithms of MPI libraries, and in a fixed order, as the trainer does.

Formulas: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH" (2005), and Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of
Workstations" (2009). p ranks reduce n bytes. A message of m bytes takes latency + m / bandwidth
seconds, and adding m bytes takes m / reduction. The ranks of a host share the link that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, log2

from .collectives import all_to_all, allgather, halving, ring_round
from .traffic import Group, Traffic

FIXED_ORDER, BY_NODE = "fixed-order", "by-node"
COPIES = 2  # of the array that a sum in fixed order makes: into pieces, and back


def ring_volume(size: int, ranks: int) -> Fraction:
    """Return the bytes that a rank sends to reduce `size` bytes over a ring, 2 (p - 1) / p of them
    (Patarasuk and Yuan 2009). Recursive halving and doubling send as many."""
    return Fraction(2 * (ranks - 1) * size, ranks)


def doubling_volume(size: int, ranks: int) -> float:
    """Return the bytes that a rank sends by recursive doubling among a power of two of ranks: all
    `size` bytes, log2(p) times (Thakur, Rabenseifner and Gropp 2005)."""
    return log2(ranks) * size


def ring(group: Group, size: float) -> Traffic:
    """A ring (Patarasuk and Yuan 2009):
    2 (p-1) (latency + n/p / bandwidth) + (p-1)/p n / reduction. On several hosts every step waits
    for its slowest link."""
    p = group.ranks
    return 2 * (p - 1) * ring_round(group, size / p) + Traffic(worked=(p - 1) / p * size)


def recursive_doubling(group: Group, size: float) -> Traffic:
    """Recursive doubling (Thakur, Rabenseifner and Gropp 2005):
    lg p (latency + n / bandwidth + n / reduction). All ranks of a host share its link. Ranks beyond
    a power of two hand over their array first and receive the sum last."""
    rounds, within = int(log2(group.ranks)), int(log2(group.local))
    outside = rounds - within if group.hosts > 1 else 0
    near, far = Traffic(1, size), Traffic(0, 0, 1, group.local * size)
    adding = Traffic(worked=size)
    total = (rounds - outside) * near + outside * far + rounds * adding
    if group.ranks & (group.ranks - 1):
        total += 2 * (far if group.hosts > 1 else near) + adding
    return total


def rabenseifner(group: Group, size: float) -> Traffic:
    """Rabenseifner's algorithm, recursive halving and then doubling (Thakur, Rabenseifner and Gropp
    2005): 2 lg p latency + 2 (p-1)/p n / bandwidth + (p-1)/p n / reduction."""
    return 2 * halving(group, size) + Traffic(worked=(1 - 1 / group.ranks) * size)


def hierarchical(group: Group, size: float) -> Traffic:
    """A hierarchical allreduce: reduce-scatter over a ring inside each host, Rabenseifner's
    allreduce of the pieces between hosts, where all ranks of a host share its link, and allgather
    over a ring inside each host."""
    r, h = group.local, group.hosts
    near = 2 * (r - 1) * Traffic(1, size / r)
    far = 2 * Traffic(0, 0, ceil(log2(h)), (1 - 1 / h) * size)
    return near + far + Traffic(worked=(1 - 1 / r) * size + (1 - 1 / h) * size / r)


def fixed_order(group: Group, size: float) -> Traffic:
    """The trainer's sum in a fixed order (`distributed/exchange.py`): an all-to-all of n/p pieces,
    (p-1)/p n added and 2 n copied by each rank, and an allgather. On one host or with one rank per
    host, long arrays take 2 (p-1) (latency + n/p / bandwidth) + (2 + (p-1)/p) n / reduction."""
    there, back = _fixed_order_halves(group, size)
    return there + back


def by_node(group: Group, size: float) -> Traffic:
    """The trainer's hierarchical sum (`distributed/hierarchy.py`) on hosts of r ranks each: two
    barriers of lg r messages, (r-1)/r n added and as much copied in shared memory by each rank, and
    r sums of n/r bytes over the hosts at a time."""
    r, h = group.local, group.hosts
    host = Traffic(2 * ceil(log2(r)), worked=2 * (1 - 1 / r) * size)
    if h == 1:
        return host
    hosts = replace(group, ranks=h, per_host=1)
    among, _ = allreduce(hosts, size / r, trained(h))
    return host + replace(among, far_bytes=r * among.far_bytes)


def splits(ranks: int, local: int) -> bool:
    """Tell whether halving the ranks again and again, the first half getting the odd one, comes to
    parts of `local` ranks: then hosts are branches of the tree in which the trainer sums."""
    if ranks <= local:
        return ranks == local
    return splits((ranks + 1) // 2, local) and splits(ranks // 2, local)


def _fixed_order_halves(group: Group, size: float) -> tuple[Traffic, Traffic]:
    local = Traffic(worked=(COPIES / 2 + 1 - 1 / group.ranks) * size)
    there = all_to_all(group, size / group.ranks) + local
    return there, Traffic(worked=COPIES / 2 * size) + allgather(group, size)


ALGORITHMS: dict[str, Callable[[Group, float], Traffic]] = {
    "recursive-doubling": recursive_doubling,
    "ring": ring,
    "rabenseifner": rabenseifner,
    "hierarchical": hierarchical,
    FIXED_ORDER: fixed_order,
    BY_NODE: by_node,
}
OWN = (FIXED_ORDER, BY_NODE)  # the trainer's
HALVED = (FIXED_ORDER, "ring", "rabenseifner")  # a reduce-scatter and an allgather


def trained(ranks: int, local: int = 1) -> str:
    """Return the algorithm by which `train` sums over so many ranks, `local` of them on a host:
    within hosts first where these are several and it can be, else in a fixed order on three or
    more; of two ranks there is but one order, and "mpi" chooses."""
    if local > 1 and splits(ranks, local):
        return BY_NODE
    return FIXED_ORDER if ranks > 2 else "mpi"


def allreduce(group: Group, size: float, algorithm: str = "mpi") -> tuple[Traffic, str]:
    """Return a sum of `size` bytes and its algorithm. "mpi" is the fastest but for those of the
    trainer, as a well-tuned MPI would choose; a single rank has nothing to do, by "none"."""
    if group.ranks == 1:
        return Traffic(), "none"
    tried = [algorithm]
    if algorithm == "mpi":
        tried = [name for name in ALGORITHMS if name not in OWN]
        if group.hosts == 1:
            tried.remove("hierarchical")  # on one host it is the ring
    return _fastest(group, size, tried)


def _fastest(group: Group, size: float, tried: Sequence[str]) -> tuple[Traffic, str]:
    found = {name: ALGORITHMS[name](group, size) for name in tried}
    name = min(found, key=lambda name: (group.seconds(found[name]), name))
    return found[name], name


def sharded(group: Group, size: float, algorithm: str = "mpi") -> tuple[Traffic, Traffic, str]:
    """Return a reduce-scatter and an allgather of `size` bytes, and the algorithm whose first and
    second half they are; "mpi" is the faster but for the fixed order. ValueError for an algorithm
    without halves."""
    if group.ranks == 1:
        return Traffic(), Traffic(), "none"
    if algorithm == FIXED_ORDER:
        return *_fixed_order_halves(group, size), algorithm
    if algorithm not in ("mpi", *HALVED):
        raise ValueError(f"sharded: expected one of mpi, {', '.join(HALVED)}, got {algorithm}")
    whole, name = _fastest(group, size, HALVED[1:] if algorithm == "mpi" else [algorithm])
    # Both halves send the same; the first one also adds.
    half = 0.5 * replace(whole, worked=0.0)
    return half + Traffic(worked=whole.worked), half, name
