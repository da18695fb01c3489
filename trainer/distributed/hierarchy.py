"""Hierarchical sums: within each node through shared memory, then among nodes.

The additions are those of the tree of `reproducible`, so the bits are too. That takes nodes whose
ranks form a branch of the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd.array import NDArray
from ...autograd.nn.flat import FlatParameters
from ..errors import UserError
from .comm import Comm, Request
from .exchange import Sum, Summation, span
from .node_memory import node_memory
from .reproducible import fold, owners


class NotShared(Exception):
    """A node's ranks cannot share memory."""


def branches(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield first rank and size of each branch of the tree over ranks."""
    yield start, size
    if size > 1:
        half = (size + 1) // 2
        yield from branches(start, half)
        yield from branches(start + half, size - half)


def obstacle(leaders: Sequence[int], owners: Sequence[int]) -> str:
    """Return why sums cannot be hierarchical, "" where they can. `leaders` has for each rank the
    first rank of its node, `owners` the ranks with micro-batches."""
    size, nodes = len(leaders), sorted(set(leaders))
    local = size // len(nodes)
    if local == 1:
        return "each node has a single rank"
    if [*owners] != [*range(size)]:
        return "some ranks have no micro-batch"
    if [*leaders] != [rank // local * local for rank in range(size)]:
        return "nodes differ in their number of ranks, or their ranks are not consecutive"
    tree = {*branches(0, size)}
    if not all((node, local) in tree for node in nodes):
        return f"the nodes are {len(nodes)}, not a power of two: each must be a branch of the tree"
    return ""


class Hierarchy:
    """The nodes of a communicator without an `obstacle`, and for each of its ranks a buffer of so
    many elements, zeros, that its node shares. All ranks must make it.

    NotShared, on all ranks, where the ranks of a node cannot share memory."""

    def __init__(
        self, comm: Comm, leaders: Sequence[int], count: int, dtype: np.dtype[Any]
    ) -> None:
        self.nodes = len(set(leaders))
        self.local = comm.size // self.nodes
        self.node = comm.split(leaders[comm.rank], "node")
        memories = node_memory(self.node, count * dtype.itemsize)
        is_shared = np.array(memories is not None, np.int64)
        comm.allreduce(is_shared, "min")
        if memories is None or not is_shared:
            raise NotShared("the ranks of a node cannot share memory")
        # Whether a rank leaves one array before or after it enters the next differs between ranks.
        self.leaving = self.node.stream("leaving")
        across = comm.split(comm.rank % self.local, "among nodes")
        self.among = Summation(across, [*range(self.nodes)], fixed=self.nodes > 2)
        self._slots = [memory.view(dtype) for memory in memories]
        self._start = _address(self.buffer)

    @property
    def buffer(self) -> NDArray:
        """The buffer of this rank, (count,)."""
        return self._slots[self.node.rank]

    def sum(self, array: NDArray) -> Sum:
        """Return a sum over the ranks that will overwrite a slice of the buffer."""
        return HierarchicalSum(self, self._slices(array))

    def _slices(self, array: NDArray) -> list[NDArray]:
        """Return the slice of each rank of the node that corresponds to one of this rank.
        ValueError for an array elsewhere."""
        offset = _address(array) - self._start
        start = offset // array.itemsize
        stop = start + array.size
        if not 0 <= start <= stop <= self.buffer.size or array.dtype != self.buffer.dtype:
            raise ValueError(
                f"hierarchical sum: expected a slice of the shared buffer of {self.buffer.size} "
                f"elements, got {array.size} {array.dtype} elements elsewhere"
            )
        return [slot[start:stop] for slot in self._slots]


def _address(array: NDArray) -> int:
    return int(array.__array_interface__["data"][0])  # far quicker than by way of `ctypes`


class HierarchicalSum:
    """A sum within a node and then among nodes of `slices`, one of each rank of the node.

    Each rank adds up one piece of all slices in place, takes part in the sum of this piece over the
    nodes, and writes it to all slices: nobody else touches that piece between the two barriers."""

    def __init__(self, hierarchy: Hierarchy, slices: list[NDArray]) -> None:
        self._hierarchy = hierarchy
        start, stop = span(slices[0].size, hierarchy.local, hierarchy.node.rank)
        self._mine = [one[start:stop] for one in slices]
        self._entered: Request | None = None
        self._among: Sum | None = None
        self._left: Request | None = None

    def start(self) -> None:
        """Tell the node that this rank's slice is complete."""
        self._entered = self._hierarchy.node.ibarrier()

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""
        if self._entered is None or not (self._among or self._entered.test()):
            return False
        among = self._among or self._add()
        if not (self._left or among.advance()):
            return False
        return (self._left or self._leave()).test()

    def finish(self) -> None:
        """Return once the sum is there."""
        if self._entered is None:
            self.start()
        assert self._entered is not None
        if self._among is None:
            self._entered.wait()
        among = self._among or self._add()
        if self._left is None:
            among.finish()
        (self._left or self._leave()).wait()

    def _add(self) -> Sum:
        mine = fold(self._mine, lambda a, b: np.add(a, b, out=a))
        self._among = self._hierarchy.among.sum(mine)
        # Not in `finish`, whose blocking call could meet one that another rank has begun in
        # `advance`: MPI does not pair these two kinds.
        self._among.start()
        return self._among

    def _leave(self) -> Request:
        first, *others = self._mine
        for other in others:
            other[...] = first
        self._left = self._hierarchy.leaving.ibarrier()
        return self._left


class Choice(NamedTuple):
    """Nodes, or why there are none, "" where none were wanted."""

    nodes: Hierarchy | None
    reason: str

    @property
    def lines(self) -> list[str]:
        """What to say of it before training, nothing where there is nothing to say."""
        if self.nodes:
            many = f", then among {self.nodes.nodes} nodes" if self.nodes.nodes > 1 else ""
            return [f"sums     among {self.nodes.local} ranks through shared memory{many}"]
        return [f"sums     not hierarchical: {self.reason}"] if self.reason else []


def form(wanted: str, comm: Comm, flat: FlatParameters, parts: int, unfit: str) -> Choice:
    """Return the nodes to sum gradients with, whose buffer these are laid into, or the reason why
    there are none. `wanted` is "on", "off" or "auto", which forms them where nodes have several
    ranks; `unfit` tells what rules them out. UserError where they are "on" without being
    possible."""
    if wanted == "off" or comm.size == 1:
        return Choice(None, "")
    leaders = comm.leaders()
    many = len(set(leaders))
    if wanted == "auto" and many == comm.size:
        return Choice(None, "")
    nodes, reason = None, unfit or obstacle(leaders, owners(parts, comm.size))
    if not reason:
        try:
            nodes = Hierarchy(comm, leaders, flat.grad.spec.size, np.dtype(flat.dtype))
        except NotShared as error:
            reason = str(error)
    if nodes:
        flat.lay_gradients(nodes.buffer)
    elif wanted == "on":
        raise UserError(f"--hierarchical: expected off or auto, since {reason}, got on")
    # On a single node they save time only, no messages: that there are none need not be said.
    return Choice(nodes, "" if nodes or many == 1 else reason)
