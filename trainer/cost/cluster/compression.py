"""What of gradients is sent when they are exchanged compressed, and by which collectives."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from .allreduce import allreduce
from .collectives import all_to_all, allgather
from .traffic import Group, Traffic

FLOAT_BYTES = 4  # of a number as it is
CODE_BYTES = 2  # of a number of 16 bits
INDEX_BYTES = 4  # of the index of a number


def parse_compress(text: str) -> tuple[str, float]:
    """Return scheme and share or rank of `none`, `bf16`, `fp16`, `topk=0.05`, `powersgd=2`, the
    last two also without. ValueError for others, and for those out of range."""
    name, equals, amount = text.partition("=")
    known: dict[str, float] = {"none": 0, "bf16": 0, "fp16": 0, "topk": 0.01, "powersgd": 4}
    value = float(amount) if equals else known.get(name, 0)
    low, high = {"topk": (0, 1), "powersgd": (1, 1024)}.get(name, (0, 0))
    is_rank = name == "powersgd" and not (equals and not amount.isdecimal())
    allowed = low <= value <= high and (is_rank or (value > 0) == (name == "topk"))
    if name not in known or not allowed or (equals and name not in ("topk", "powersgd")):
        raise ValueError(f"expected none, bf16, fp16, topk=SHARE or powersgd=RANK, got {text}")
    return name, value


def kept(size: int, share: float) -> int:
    """Return how many of `size` numbers top-k keeps, one at least."""
    return min(size, max(1, round(share * size)))


def low_rank(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, int], int] | None:
    """Return a parameter's shape as a matrix, and the rank of its factors; None where these would
    not be smaller."""
    if len(shape) < 2:
        return None
    rows, columns = shape[0], prod(shape[1:])
    rank = min(rank, rows, columns)
    return ((rows, columns), rank) if rank * (rows + columns) < rows * columns else None


class Compression(NamedTuple):
    """A compressed exchange of float32 gradients of these `shapes`, in the order in which they are
    final. On p ranks, compressing a step's gradients takes a rank `base` + p `per_rank` seconds."""

    scheme: str
    amount: float
    shapes: Sequence[tuple[int, ...]]
    base: float = 0.0
    per_rank: float = 0.0

    def seconds(self, ranks: int) -> float:
        """Return the seconds of compressing and decompressing a step's gradients."""
        return max(0.0, self.base + ranks * self.per_rank)

    def traffic(self, group: Group, first: int, last: int, algorithm: str) -> Traffic:
        """Return what the exchange of the parameters from `first` up to but without `last` asks of
        links, sums by an algorithm among them."""
        shapes = self.shapes[first:last]
        size = sum(map(prod, shapes))
        if self.scheme == "topk":
            each = kept(size, self.amount) * (INDEX_BYTES + FLOAT_BYTES)
            return allgather(group, group.ranks * each)
        if self.scheme == "powersgd":
            left, right = low_rank_sizes(shapes, int(self.amount))
            sums = [FLOAT_BYTES * size for size in (left, right) if size]
            return sum((allreduce(group, size, algorithm)[0] for size in sums), Traffic())
        codes = CODE_BYTES * size
        return all_to_all(group, codes / group.ranks) + allgather(group, codes)


def low_rank_sizes(shapes: Sequence[tuple[int, ...]], rank: int) -> tuple[int, int]:
    """Return how many numbers the two sums of factors have, the first one with what is no matrix
    or would not be smaller."""
    left = right = 0
    for shape in shapes:
        if factors := low_rank(shape, rank):
            (rows, columns), r = factors
            left, right = left + rows * r, right + columns * r
        else:
            left += prod(shape)
    return left, right
