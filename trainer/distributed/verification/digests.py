"""Digests: numbers that change with any single bit of what they stand for, and their exchange."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..comm import Comm

Digests: TypeAlias = NDArray[np.uint64]
VOTES = 3  # copies of a digest, of which a flipped bit spoils one
WORD = 8  # bytes that are added at a time where arrays allow it

_memcmp = ctypes.CDLL(None).memcmp  # NumPy would write its findings to an array first
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def digests(array: NDArray[Any], offsets: Sequence[int]) -> Digests:
    """Return a sum of the bits of each part of an array (n,) that begins at an offset: any single
    flip changes it."""
    words, starts = array.view(f"u{array.dtype.itemsize}"), np.array(offsets, np.int64)
    per = WORD // words.itemsize
    if not (len(words) % per or (starts % per).any()):
        words, starts = words.view(f"u{WORD}"), starts // per
    sums = np.zeros(len(starts), np.uint64)
    inside = starts < len(words)  # what begins at the end has no elements
    if inside.any():
        sums[inside] = np.add.reduceat(words, starts[inside], dtype=np.uint64)
    return sums


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two contiguous arrays of one type and shape hold the same."""
    return not _memcmp(a.ctypes.data, b.ctypes.data, a.nbytes)


def digest(array: NDArray[Any]) -> Digests:
    """Return the digest of a whole array of any shape, (1,)."""
    return digests(np.ascontiguousarray(array).reshape(-1), [0])


def gather(comm: Comm, row: Digests, tell: Callable[[str], None]) -> Digests:
    """Return the rows of all ranks, (size, n), the same on every rank though a bit flips on the
    way: ranks that disagreed on what to do next would wait for each other for ever. `tell` gets a
    line on each rank that received a row wrongly. All ranks must call it."""
    rows = comm.allgather(row)
    rows[comm.rank] = row  # which needed no message
    votes = comm.allgather(np.repeat(digest(rows), VOTES))
    seen = np.sort(votes, axis=1)[:, VOTES // 2]  # of each rank the digest that two of three say
    if (seen == seen[0]).all():
        return rows
    received = comm.allgather(rows)
    true = received[np.arange(comm.size), np.arange(comm.size)]  # these never left their rank
    for rank in np.flatnonzero((received != true).any(axis=(1, 2))):
        tell(f"rank {rank}: wrong digests received")
    return true
