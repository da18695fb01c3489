"""Sums in a fixed order: along the binary tree that halving makes of the micro-batches of a step,
the first half getting the odd one. Each rank owns a branch of it (`datasets.sampler.owned`), so the
same additions are done on any number of ranks, and the sums have the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ...datasets.sampler import owned

T = TypeVar("T")


def fold(values: Sequence[T], add: Callable[[T, T], object]) -> T:
    """Return the first value, to which `add(a, b)`, meaning a = a + b, has added all others along
    the tree; others are overwritten with sums of branches."""
    if len(values) == 1:
        return values[0]
    half = (len(values) + 1) // 2
    left = fold(values[:half], add)
    add(left, fold(values[half:], add))
    return left


def merges(count: int) -> list[int]:
    """Return for each of `count` values that come one by one how many branches it completes: so
    many times the newest sum set aside is added to it."""
    if count == 1:
        return [0]
    counts = merges((count + 1) // 2) + merges(count // 2)
    counts[-1] += 1
    return counts


def owners(parts: int, size: int) -> list[int]:
    """Return the ranks of `size` that own any of `parts` micro-batches."""
    return [rank for rank in range(size) if len(range(*owned(parts, rank, size)))]
