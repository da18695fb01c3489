"""Arrays for results: blocks of memory are reused, since fresh memory costs page faults that rival
the arithmetic."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import defaultdict
from contextlib import suppress
from functools import cache
from math import inf
from threading import Lock, get_ident
from typing import Any

import numpy as np

from ....array import NDArray
from ....memory import Account, OutOfMemory, register

ALIGNED = 64  # bytes: a cache line, and the widest vector
SMALL = 1 << 12  # bytes of the smallest block, a page
IDLE = 1 << 25  # bytes that may be held besides twice those that were ever used at once
MALLOC = 1 << 16  # bytes up to which memory from malloc costs less than keeping it
LARGE = 1 << 21  # bytes of a large page
SHARED = 4 * LARGE  # bytes that small pieces share


class LargePages:
    """Hands out memory of large pages, of which a processor finds the addresses in its own tables:
    it holds those of some megabytes in small pages, and a step touches hundreds.

    Pieces smaller than a page share some, which go back to the system with the last of them; what
    does not fit at their end is lost."""

    def __init__(self) -> None:
        self.rest = np.empty(0, np.uint8)
        self.lock = Lock()

    def take(self, size: int) -> NDArray:
        """Return `size` bytes that begin a cache line."""
        room = -(-size // ALIGNED) * ALIGNED
        if room >= LARGE:
            return _mapped(room)[:size]
        with self.lock:
            whole = self.rest if room <= self.rest.size else _mapped(SHARED)
            piece, rest = whole[:room], whole[room:]
            if whole is self.rest or rest.size > self.rest.size:
                self.rest = rest
        return piece[:size]


def _mapped(size: int) -> NDArray:
    """Return new memory that begins a large page, in such pages where the system has them.
    MemoryError where it gives none."""
    try:
        memory = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        # The address space may have room without the margin; if not, NumPy's error says the size.
        numbers = np.empty(size + ALIGNED, np.uint8)
        offset = -numbers.ctypes.data % ALIGNED
        return numbers[offset : offset + size]
    numbers = np.frombuffer(memory, np.uint8)
    offset = -numbers.ctypes.data % LARGE
    # The rest of the last page stays in small ones, so that no memory is lost.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE, offset, size // LARGE * LARGE)
    return numbers[offset : offset + size]


pages = LargePages() if hasattr(mmap, "MADV_HUGEPAGE") else None


def _forked() -> None:
    """Renew the lock in a child of `fork`, where the thread that held it is gone."""
    if pages is not None:
        pages.lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class SystemMemory:
    """Some bytes from the system, and their first aligned address, `start`."""

    __slots__ = ("numbers", "start")

    def __init__(self, size: int) -> None:
        room = size + ALIGNED
        self.numbers = pages.take(room) if pages else np.empty(room, np.uint8)
        start = self.numbers.ctypes.data
        self.start = start + -start % ALIGNED


class Arena:
    """Memory that belongs to recordings, which replay one at a time.

    A replay writes to the addresses that were recorded. Blocks that were reused while recording are
    reused in the same order in each replay, so nobody else may have them in between. `taken` lists
    the blocks in use, `retained` what kernels keep from call to call, by whoever asked; `reserved`
    counts bytes that are free and still nobody else's.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[SystemMemory]] = defaultdict(list)
        self.reserved = 0
        self.closed = True
        self.taken: list[SystemMemory] = []
        self.retained: dict[Any, tuple[Any, NDArray]] = {}

    def __del__(self) -> None:
        pool.release(self)


class ReplayedMemory:
    """Hands out recorded blocks again, in the order in which they were taken."""

    def __init__(self, memory: list[SystemMemory]) -> None:
        self.memory = memory[::-1]

    def take(self, room: int) -> Any:
        """Return the next block. RuntimeError if it is smaller than `room` bytes, or missing."""
        if not self.memory or self.memory[-1].numbers.size < room + ALIGNED:
            left = self.memory[-1].numbers.size - ALIGNED if self.memory else 0
            raise RuntimeError(
                f"replay: expected a block of at most {left} bytes, as recorded, got {room}"
            )
        memory = self.memory.pop()
        view = _view_type(room).from_address(memory.start)
        view.memory = memory
        return view


@cache
def _view_type(room: int) -> type[Any]:
    """Return the ctypes array of `room` bytes that keeps its memory alive and gives it back to
    nobody."""

    class View(ctypes.c_char * room):  # type: ignore[misc]
        __slots__ = ("memory",)

    return View


class BlockPool(Account):
    """Blocks of memory by size, reused.

    A block comes back when the last array that lies in it is gone. In a thread that has an arena,
    blocks come from there and go back there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[int, list[SystemMemory]] = defaultdict(list)
        self.kinds: dict[int, type[Any]] = {}
        self.arenas: dict[int, Arena | ReplayedMemory] = {}  # by thread
        self.closed = False

    def take(self, size: int, lasting: bool = False) -> Any:
        """Return a block of at least `size` bytes, as a ctypes array; a `lasting` one never lies in
        an arena. OutOfMemory beyond the limit."""
        room = SMALL if size <= SMALL else _rounded(size)
        home: BlockPool | Arena = self
        if self.arenas and not lasting:
            arena = self.arenas.get(get_ident())
            if isinstance(arena, ReplayedMemory):
                return arena.take(room)
            home = arena or self
        try:
            memory = home.free[room].pop()
        except IndexError:
            memory = self._more(room)
        if isinstance(home, Arena):
            home.taken.append(memory)
        # Lists are popped and appended to without a lock, since both are atomic under Python's.
        # Counts may be off by a block where threads meet; they decide nothing but a limit.
        self.used = used = self.used + room
        if used > self.peak:
            self.peak = used
        block = (self.kinds.get(room) or self._kind(room)).from_address(memory.start)
        block.memory, block.home = memory, home
        return block

    def _more(self, room: int) -> SystemMemory:
        """Return memory that is free, or new from the system."""
        try:
            return self.free[room].pop()
        except IndexError:
            self._grow(room)
            return SystemMemory(room)

    def _grow(self, room: int) -> None:
        needed = self.used + room
        # Blocks of sizes that are no longer asked for would pile up: all free ones go at once.
        if self.held + room > min(self.limit or inf, IDLE + 2 * max(self.peak, needed)):
            for free in [*self.free.values()]:
                free.clear()
            self.held = self.used
            if self.limit and needed > self.limit:
                raise OutOfMemory(needed, self.limit)
        self.held += room

    def arena(self) -> Arena | None:
        """Return the arena of this thread, None without."""
        arena = self.arenas.get(get_ident()) if self.arenas else None
        return arena if isinstance(arena, Arena) else None

    def open(self, arena: Arena) -> None:
        """Give this thread an arena, until `close`."""
        self.arenas[get_ident()], arena.closed = arena, False
        self.used -= arena.reserved
        arena.reserved = 0

    def close(self) -> None:
        """Take this thread's arena away; its memory counts as used until it is released."""
        arena = self.arenas.pop(get_ident())
        assert isinstance(arena, Arena)
        arena.closed = True
        arena.reserved = sum(room * len(free) for room, free in arena.free.items())
        self.used += arena.reserved
        self.peak = max(self.peak, self.used)

    def again(self, memory: list[SystemMemory]) -> None:
        """Hand out recorded memory in this thread until `end`."""
        self.arenas[get_ident()] = ReplayedMemory(memory)

    def end(self) -> None:
        """End what `again` began."""
        del self.arenas[get_ident()]

    def release(self, arena: Arena) -> None:
        """Give an arena's free blocks to all."""
        self.used -= arena.reserved
        for room, free in arena.free.items():
            self.free[room].extend(free)

    def _kind(self, room: int) -> type[Any]:
        """Return the ctypes array of that size whose end gives its memory back."""
        pool = self

        class Block(ctypes.c_char * room):  # type: ignore[misc]
            __slots__ = ("home", "memory")

            def __del__(self) -> None:
                home = self.home
                # Runs in whichever thread drops the last array, perhaps while the arena is closed.
                home.free[room].append(self.memory)
                if home.closed:
                    home.reserved += room
                else:
                    pool.used -= room

        self.kinds[room] = Block
        return Block


def _rounded(size: int) -> int:
    """Return the size of the block for so many bytes. At most an eighth is lost, and arrays of
    nearly one size share their blocks."""
    step = 1 << max(12, (size - 1).bit_length() - 4)
    return -(-size // step) * step


pool = BlockPool()
register(pool)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], lasting: bool = False) -> NDArray:
    """Return an uninitialised array in row-major order; a `lasting` one, which outlives its call,
    never lies in an arena."""
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    return np.ndarray(shape, dtype, pool.take(size, lasting))


def lasting(asker: Any, size: int, dtype: np.dtype[Any], own: dict[Any, NDArray]) -> NDArray:
    """Return zeros of `size` numbers or more that `asker` keeps from call to call, in `own`.

    While calls are recorded, they belong to the arena instead: all its recordings share them, and
    no other thread does.
    """
    arena = pool.arena()
    name = id(own), asker
    array = own.get(asker) if arena is None else arena.retained.get(name, (own, None))[1]
    if array is None or array.size < size:
        array = np.ndarray((size,), dtype, pool.take(size * dtype.itemsize, lasting=True))
        array[...] = 0
        if arena is None:
            own[asker] = array
        else:
            if name in arena.retained:  # too small for this call, but earlier ones use it
                arena.retained[name, len(arena.retained)] = arena.retained[name]
            arena.retained[name] = own, array
    return array


def images(n: int, c: int, h: int, w: int, dtype: np.dtype[Any]) -> NDArray:
    """Return an uninitialised array (N, C, H, W) that is channels-last in memory. Small ones are
    not aligned."""
    make = np.empty if n * c * h * w * dtype.itemsize <= MALLOC else empty
    return make((n, h, w, c), dtype).transpose(0, 3, 1, 2)
