"""The exchange of arrays between ranks: sums in a fixed order, and when they are worked on.

An exchange hides behind the backward sweep only if somebody drives it: MPI libraries have no thread
of their own for that. What drives it is chosen by name (`OVERLAPS`); the sums are the same.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Protocol

import numpy as np

from ...autograd.array import NDArray
from .comm import Comm, Request
from .reproducible import fold, owners

OVERLAPS = ("none", "poll", "thread")


class Sum(Protocol):
    """An array that is being overwritten with its sum over the ranks, in steps that all ranks take
    in the same order."""

    def start(self) -> None:
        """Begin; the array must not be touched from now on."""

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""

    def finish(self) -> None:
        """Return once the sum is there."""


class Nodes(Protocol):
    """`nodes` nodes of `local` ranks each, which sum slices of a buffer that they share."""

    nodes: int
    local: int

    def sum(self, array: NDArray) -> Sum:
        """Return a sum over the ranks that will overwrite an array."""


class MpiSum:
    """A sum whose order of additions is MPI's."""

    def __init__(self, comm: Comm, array: NDArray) -> None:
        self._comm, self._array = comm, array
        self._request: Request | None = None

    def start(self) -> None:
        """Begin."""
        self._request = self._comm.iallreduce(self._array)

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""
        return self._request is not None and self._request.test()

    def finish(self) -> None:
        """Return once the sum is there."""
        if self._request is None:
            self._comm.allreduce(self._array)
        else:
            self._request.wait()


def gather_rows(comm: Comm, rows: NDArray) -> NDArray | None:
    """Return the ranks' rows, (n, ..) with an n of each rank's own, one after the other on rank 0;
    None elsewhere, and if there are none. All ranks must call it."""
    joined = b"".join(comm.gather_bytes(rows.tobytes()))
    return np.frombuffer(joined, rows.dtype).reshape(-1, *rows.shape[1:]) if joined else None


def piece(count: int, size: int) -> int:
    """Return how many of `count` elements each of `size` ranks adds up; the last may have less."""
    return -(-count // size)


def starts(count: int, size: int) -> list[int]:
    """Return the first of `count` elements that each of `size` ranks adds up; `count` or more for a
    rank without any."""
    return [rank * piece(count, size) for rank in range(size)]


def span(count: int, size: int, rank: int) -> tuple[int, int]:
    """Return the range of the elements that a rank adds up, from the first up to the last + 1."""
    width = piece(count, size)
    return min(rank * width, count), min((rank + 1) * width, count)


class TreeSum:
    """A sum along the tree of `reproducible`. Each rank adds up one piece of the array: an
    all-to-all brings the pieces there, an allgather brings the sums back. Like a ring, this moves
    2 (p-1)/p of the array; unlike MPI's reductions it has one order. What comes from ranks without
    micro-batches is not looked at: even zeros would turn -0.0 into 0.0.

    `back` is a stream of its own, on which the allgathers go: whether one begins before or after
    the next array's all-to-all differs between ranks.
    """

    def __init__(self, comm: Comm, back: Comm, array: NDArray, owners: list[int]) -> None:
        self._comm, self._back, self._array, self._owners = comm, back, array, owners
        self._there: Request | None = None
        self._return: Request | None = None

    def start(self) -> None:
        """Send each rank its piece."""
        size, content = self._comm.size, self._content()
        # Zeros fill the last piece: all pieces of an all-to-all are of one size.
        padded = np.zeros((size, piece(content.size, size)), content.dtype)
        padded.reshape(-1)[: content.size] = content.reshape(-1)
        self._there, self._pieces = self._comm.ialltoall(padded)

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""
        if self._there is None or not (self._return or self._there.test()):
            return False
        back = self._return or self._add()
        if not back.test():
            return False
        self._put()
        return True

    def finish(self) -> None:
        """Return once the sum is there."""
        if self._there is None:
            self.start()
        assert self._there is not None
        if self._return is None:
            self._there.wait()
        (self._return or self._add()).wait()
        self._put()

    def _fold(self) -> NDArray:
        """Return the sum of this rank's piece."""
        # Rank r owns the r-th branch of the tree, so that adding the ranks' pieces along it does
        # the additions that a single rank does with all micro-batches.
        pieces = [self._pieces[rank] for rank in self._owners]
        return fold(pieces, lambda a, b: np.add(a, b, out=a))

    def _add(self) -> Request:
        """Add up this rank's piece and send it to all."""
        self._return, self._sums = self._back.iallgather(self._fold())
        return self._return

    def _content(self) -> NDArray:
        """Return what ranks send each other pieces of."""
        return self._array

    def _put(self) -> None:
        sums = self._sums.reshape(-1)[: self._array.size]
        self._array[...] = sums.reshape(self._array.shape)


class TreeScatter(TreeSum):
    """A TreeSum without its way back: this rank's piece of the array is overwritten with its sum,
    and the rest is left as it was."""

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum of the piece is there."""
        if self._there is None or not self._there.test():
            return False
        self._put()
        return True

    def finish(self) -> None:
        """Return once the sum of the piece is there."""
        if self._there is None:
            self.start()
        assert self._there is not None
        self._there.wait()
        self._put()

    def _put(self) -> None:
        array, rank = self._array, self._comm.rank
        start, stop = span(array.size, self._comm.size, rank)
        array.reshape(-1)[start:stop] = self._fold()[: stop - start]


class Summation:
    """Makes the sums of one stream of exchanges: along the tree where they are `fixed`, else by
    MPI. One that `scatters` leaves each rank its piece. All ranks must make it."""

    def __init__(
        self,
        comm: Comm,
        owners: list[int],
        fixed: bool,
        name: str = "",
        scatters: bool = False,
    ) -> None:
        self.comm = comm.stream(name) if name else comm
        self.owners, self.fixed, self.scatters = owners, fixed, scatters
        self.back = comm.stream(f"{name} return".strip()) if fixed and not scatters else comm

    def sum(self, array: NDArray) -> Sum:
        """Return a sum over the ranks that will overwrite an array."""
        if self.scatters:
            return TreeScatter(self.comm, self.back, array, self.owners)
        if self.fixed:
            return TreeSum(self.comm, self.back, array, self.owners)
        return MpiSum(self.comm, array)


class Reducer:
    """Sums arrays over the ranks: `start` begins, `wait` ends all that were begun. With the number
    of micro-batches (`parts`) the additions are done along the tree of `reproducible`; without it
    MPI chooses their order, which for two ranks is no choice.

    `overlap` says what drives an exchange between the two: "none" leaves all to `wait`; "poll" does
    a little in each `poll`; "thread" has a thread that waits for it. `exposed` counts the seconds
    that callers spent in `start`, `poll` and `wait`. With `shift` each rank holds the branch of so
    many ranks after it. One that `scatters` leaves on each rank the sum of its own piece alone, see
    `span`. With `nodes` arrays are slices of the buffer that these share.
    """

    def __init__(
        self,
        comm: Comm,
        parts: int = 0,
        overlap: str = "none",
        shift: int = 0,
        scatters: bool = False,
        nodes: Nodes | None = None,
    ) -> None:
        self.comm, self.overlap, self.nodes = comm, overlap, nodes
        self.exposed = 0.0
        branches = owners(parts, comm.size) if parts else range(comm.size)
        self.owners = [(rank - shift) % comm.size for rank in branches]
        self.scatters = scatters and parts > 0 and comm.size > 1
        fixed = parts > 0 and comm.size > min(2, parts)
        self._summation = Summation(comm, self.owners, fixed, scatters=self.scatters)
        self._summations: dict[str, Summation] = {}
        self._pending: list[Sum] = []
        self._driven = 0  # of those pending are done
        self._thread: ThreadPoolExecutor | None = None
        self._futures: list[Future[None]] = []

    @property
    def fixed(self) -> bool:
        """Whether additions are done along the tree; a measurement may forgo it."""
        return self._summation.fixed

    @fixed.setter
    def fixed(self, fixed: bool) -> None:
        self._summation.fixed = fixed
        self.nodes = self.nodes if fixed else None

    def start(self, array: NDArray) -> None:
        """Begin to overwrite an array with its sum over the ranks."""
        self.begin((self.nodes or self._summation).sum(array))

    def summation(self, name: str, fixed: bool = False) -> Summation:
        """Return a stream of exchanges of its own, the same for the same name. All ranks must call
        this alike."""
        if name not in self._summations:
            fixed = fixed or self.fixed
            self._summations[name] = Summation(self.comm, self.owners, fixed, name)
        return self._summations[name]

    def begin(self, new: Sum) -> None:
        """Begin a sum."""
        begun = time.perf_counter()
        self._begin(new)
        self.exposed += time.perf_counter() - begun

    def _begin(self, new: Sum) -> None:
        if self.overlap == "thread":
            # One thread: the order of collectives is that of the arrays.
            self._thread = self._thread or ThreadPoolExecutor(1, "tallygrad-exchange")
            # In the caller's context, whose overflows NumPy does not warn of.
            self._futures.append(self._thread.submit(copy_context().run, new.finish))
            return
        self._pending.append(new)
        if self.overlap == "poll":
            new.start()
            self._poll()

    def poll(self) -> None:
        """Drive what was begun, in its order, as far as it goes without waiting."""
        if self.overlap == "poll":
            begun = time.perf_counter()
            self._poll()
            self.exposed += time.perf_counter() - begun

    def _poll(self) -> None:
        while self._driven < len(self._pending) and self._pending[self._driven].advance():
            self._driven += 1

    def wait(self) -> None:
        """Return when every sum is there."""
        begun = time.perf_counter()
        for future in self._futures:
            future.result()
        for request in self._pending[self._driven :]:
            request.finish()
        self._futures.clear()
        self._pending.clear()
        self._driven = 0
        self.exposed += time.perf_counter() - begun
