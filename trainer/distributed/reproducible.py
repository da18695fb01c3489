"""Sums in a fixed order: along the binary tree that halving makes of the micro-batches of a step,
the first half getting the odd one. Each rank owns a branch of it (`datasets.sampler.owned`), so the
same additions are done on any number of ranks, and the sums have the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ...autograd.array import NDArray
from .comm import Comm

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


class FixedSum:
    """An array being overwritten with its sum over the ranks along the tree. Each rank adds up one
    piece of it: an all-to-all brings the pieces there, an allgather brings the sums back. Like a
    ring, this moves 2 (p-1)/p of the array; unlike MPI's reductions it has one order."""

    def __init__(self, comm: Comm, array: NDArray) -> None:
        self.comm, self.array = comm, array
        # Zeros fill the last piece: all pieces of an all-to-all are of one size.
        self.width = -(-array.size // comm.size)
        padded = np.zeros((comm.size, self.width), array.dtype)
        padded.reshape(-1)[: array.size] = array.reshape(-1)
        self.request, self.pieces = comm.ialltoall(padded)

    def wait(self) -> None:
        """Return when the sum is there; all ranks must wait for their sums in one order."""
        self.request.wait()
        # Rank r owns the r-th branch of the tree, so that adding the ranks' pieces along it does
        # the additions that a single rank does with all micro-batches.
        mine = fold(list(self.pieces), lambda a, b: np.add(a, b, out=a))
        sums = self.comm.allgather(mine).reshape(-1)
        self.array[...] = sums[: self.array.size].reshape(self.array.shape)
