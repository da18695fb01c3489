"""Collectives without additions, as MPICH does them: what each asks of links and ranks.

Formulas: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH" (2005). The ranks of a host share the link that leaves it.
"""

from __future__ import annotations

from math import ceil, log2

from .traffic import Group, Traffic

SHORT_PIECE, LONG_PIECE = 256, 32 << 10  # bytes that tell the algorithms of an all-to-all
MANY = 8  # ranks from which on short pieces go by Bruck's algorithm
AT_ONCE = 32  # messages that it has under way
SHORT_POWER, SHORT_OTHER = 1 << 19, 80 << 10  # bytes up to which an allgather doubles, by ranks


def all_to_all(group: Group, piece: float) -> Traffic:
    """Each rank sends a piece of so many bytes to each other rank: by Bruck's algorithm for short
    pieces among many, lg p (latency + p/2 piece / bandwidth), k messages at once for longer ones,
    (p-1)/k latency + (p-1) piece / bandwidth, and p-1 pairwise exchanges for long ones,
    (p-1) (latency + piece / bandwidth). The p-r messages to ranks of other hosts share the host's
    link, r at a time."""
    p, r = group.ranks, group.local
    if piece <= SHORT_PIECE and p >= MANY:
        return doubling_rounds(group, p / 2 * piece)
    near, far = (r - 1) * piece, (p - r) * r * piece
    if piece > LONG_PIECE:
        return Traffic(r - 1, near, p - r, far)
    batches = ceil((p - 1) / AT_ONCE)
    return Traffic(0, near, batches, far) if group.hosts > 1 else Traffic(batches, near)


def allgather(group: Group, size: float) -> Traffic:
    """Each rank gets the `size` bytes of which it has 1/p: recursive doubling for few bytes,
    lg p latency + (p-1)/p n / bandwidth, and a ring for others, (p-1) (latency + n/p / bandwidth).
    Neighbours in the ring are on the same host where they can be: one rank of a host sends over its
    link."""
    p = group.ranks
    if size < (SHORT_OTHER if p & (p - 1) else SHORT_POWER):
        return halving(group, size)
    return (p - 1) * ring_round(group, size / p)


def halving(group: Group, size: float) -> Traffic:
    """Recursive halving or doubling, without additions: lg p latency + (p-1)/p n / bandwidth.
    Distant ranks exchange the most: of p ranks on h hosts each sends (h-1)/h n through its host's
    link, and the rest inside the host."""
    p, h = group.ranks, group.hosts
    levels, outer = ceil(log2(p)), ceil(log2(h))
    far = group.local * (1 - 1 / h) * size
    return Traffic(levels - outer, (1 / h - 1 / p) * size, outer, far)


def doubling_rounds(group: Group, size: float) -> Traffic:
    """lg p rounds in which each rank sends `size` bytes; near ranks first."""
    outer = ceil(log2(group.hosts))
    inner = ceil(log2(group.ranks)) - outer
    return Traffic(inner, inner * size, outer, outer * group.local * size)


def ring_round(group: Group, piece: float) -> Traffic:
    """Every rank sends a piece to the next one; on several hosts all wait for the slowest link."""
    near, far = Traffic(1, piece), Traffic(0, 0, 1, piece)
    rounds = [near] * (group.local > 1) + [far] * (group.hosts > 1)
    return max(rounds, key=group.seconds, default=Traffic())
