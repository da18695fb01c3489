"""Arrays for results: memory that was used before is used again, since fresh memory costs page
faults that rival the arithmetic."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from typing import Any

import numpy as np

from ...array import NDArray
from ...memory import Account, OutOfMemory, register

ALIGNED = 64  # bytes: a cache line, and the widest vector
SMALL = 1 << 12
MALLOC = 1 << 16  # bytes up to which memory from malloc costs less than keeping it


class Memory:
    """Some bytes from the system, and their first aligned address."""

    __slots__ = ("numbers", "start")

    def __init__(self, size: int) -> None:
        self.numbers = np.empty(size + ALIGNED, np.uint8)
        start = self.numbers.ctypes.data
        self.start = start + -start % ALIGNED


class Pool(Account):
    """Blocks of memory by size. A block comes back when the last array that lies in it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[int, list[Memory]] = defaultdict(list)
        self.kinds: dict[int, type[Any]] = {}

    def take(self, size: int) -> Any:
        """Return a block of at least `size` bytes, as a ctypes array. OutOfMemory beyond the
        limit."""
        room = SMALL if size <= SMALL else _rounded(size)
        try:
            memory = self.free[room].pop()
        except IndexError:
            self._grow(room)
            memory = Memory(room)
        # Counts may be off by a block where threads meet; they decide nothing but a limit.
        self.used = used = self.used + room
        if used > self.peak:
            self.peak = used
        block = (self.kinds.get(room) or self._kind(room)).from_address(memory.start)
        block.memory = memory
        return block

    def _grow(self, room: int) -> None:
        if self.limit and self.held + room > self.limit:
            for free in [*self.free.values()]:
                free.clear()
            self.held = self.used
            if self.held + room > self.limit:
                raise OutOfMemory(self.used + room, self.limit)
        self.held += room

    def _kind(self, room: int) -> type[Any]:
        """Return the ctypes array of that size whose end gives its memory back."""
        pool, free = self, self.free[room]

        class Block(ctypes.c_char * room):  # type: ignore[misc]
            __slots__ = ("memory",)

            def __del__(self) -> None:
                pool.used -= room
                free.append(self.memory)

        self.kinds[room] = Block
        return Block


def _rounded(size: int) -> int:
    """Return the size of the block for so many bytes: an eighth of a power of two at most is lost,
    so that arrays of nearly one size share their blocks."""
    step = 1 << max(12, (size - 1).bit_length() - 4)
    return -(-size // step) * step


pool = Pool()
register(pool)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    """Return an array in row-major order whose numbers are not set."""
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    return np.ndarray(shape, dtype, pool.take(size))


def images(n: int, c: int, h: int, w: int, dtype: np.dtype[Any]) -> NDArray:
    """Return an array (N, C, H, W), channels-last in memory, whose numbers are not set. Small ones
    are not aligned."""
    make = np.empty if n * c * h * w * dtype.itemsize <= MALLOC else empty
    return make((n, h, w, c), dtype).transpose(0, 3, 1, 2)
