"""GradientSync: sums gradients over the ranks, bucket by bucket, while the sweep still runs."""

from __future__ import annotations

from collections.abc import Iterable

from ...autograd import context
from ...autograd.array import Array, NDArray, Spec
from ...autograd.functional.create import zeros
from ...autograd.ledger import Cost
from ...autograd.nn.flat import FlatParameters
from ...autograd.ops.update import accumulate, store
from ...autograd.primitive import primitive
from ...autograd.tensor import Parameter, Tensor
from ..cost.cluster.allreduce import ring_volume
from .comm import Comm
from .compression import Compressor, Residuals
from .exchange import Reducer, piece
from .reproducible import merges


def _ring(y: None, g: Spec, *, through: Reducer) -> Cost:
    """Cost of a ring allreduce for one rank (Patarasuk and Yuan 2009): 2 (p-1) messages, in all
    2 (p-1)/p of the array; (p-1)/p of it is added. A sum in fixed order sends as much; what MPI
    really chooses is not observable."""
    p = through.comm.size
    moved = int(ring_volume(g.nbytes, p))
    return Cost(
        add=(p - 1) * g.size // p,
        bytes_read=moved,
        bytes_written=moved,
        bytes_sent=moved,
        messages=2 * (p - 1),
    )


@primitive(infer=lambda g, *, through: (), cost=_ring, writes=(0,), alias=0)
def allreduce(g: NDArray, *, through: Reducer) -> None:
    """Begin g = the sum of g over the ranks; `through.wait()` ends it."""
    through.start(g)


def _by_nodes(y: None, g: Spec, *, through: Reducer) -> Cost:
    """Cost of a hierarchical allreduce for one rank, whose piece is 1/r of the array among the r
    ranks of its node: reading and writing it in the memory of all of them, and a ring over the
    nodes, whose messages are the only ones."""
    assert through.nodes is not None
    r, h = through.nodes.local, through.nodes.nodes
    mine = piece(g.size, r)
    size = mine * g.dtype.itemsize
    moved = int(ring_volume(size, h))
    return Cost(
        add=(r - 1) * mine + (h - 1) * mine // h,
        bytes_read=3 * (r - 1) * size + moved,
        bytes_written=2 * (r - 1) * size + moved,
        bytes_sent=moved,
        messages=2 * (h - 1),
    )


@primitive(infer=lambda g, *, through: (), cost=_by_nodes, writes=(0,), alias=0)
def allreduce_hierarchical(g: NDArray, *, through: Reducer) -> None:
    """Begin g = the sum of g over the ranks, within nodes and then among them; `through.wait()`
    ends it."""
    through.start(g)


def _half_ring(y: None, g: Spec, *, through: Reducer) -> Cost:
    """Cost of a ring reduce-scatter for one rank: the first half of an allreduce's messages, and
    all of its additions (Patarasuk and Yuan 2009)."""
    p = through.comm.size
    moved = int(ring_volume(g.nbytes, p) / 2)
    return Cost(
        add=(p - 1) * g.size // p,
        bytes_read=moved,
        bytes_written=moved,
        bytes_sent=moved,
        messages=p - 1,
    )


@primitive(infer=lambda g, *, through: (), cost=_half_ring, writes=(0,), alias=0)
def reduce_scatter(g: NDArray, *, through: Reducer) -> None:
    """Begin g = the sum of g over the ranks in this rank's piece of it; `through.wait()` ends
    it."""
    through.start(g)


def _tree(y: None, x: Spec, *, through: Comm) -> Cost:
    """Cost of a broadcast from rank 0 along a binomial tree for one rank: a message of the whole
    array to each of its children, p-1 over all ranks."""
    reach = through.rank & -through.rank or through.size
    children = sum(
        1 << k < reach and through.rank + (1 << k) < through.size
        for k in range(through.size.bit_length())
    )
    return Cost(
        bytes_read=children * x.nbytes,
        bytes_written=x.nbytes if through.rank else 0,
        bytes_sent=children * x.nbytes,
        messages=children,
    )


@primitive(infer=lambda x, *, through: (), cost=_tree, writes=(0,), alias=0)
def broadcast(x: NDArray, *, through: Comm) -> None:
    """Overwrite x with that of rank 0."""
    through.bcast(x)


def share(arrays: Iterable[Array], comm: Comm) -> None:
    """Give every rank the numbers of rank 0."""
    with context.using(phase="communicate", scope="weights", tape=None):
        for a in arrays:
            broadcast(a, through=comm)


def _exchange(array: Array, reducer: Reducer) -> None:
    """Begin the exchange that the reducer is made for."""
    if reducer.scatters:
        reduce_scatter(array, through=reducer)
    elif reducer.nodes:
        allreduce_hierarchical(array, through=reducer)
    else:
        allreduce(array, through=reducer)


class Bucket:
    """A slice of the flat gradient buffer from element `start` on. Of its `members`, parameters,
    so many are `missing`: their gradients are not final yet."""

    def __init__(self, array: Array, start: int, members: int) -> None:
        self.array = array
        self.start = start
        self.members = members
        self.missing = members


class GradientSync:
    """Sums the gradients of a model, which lie in `flat`, over the ranks, during the sweep.

    The exchange of a bucket, of `bucket_bytes` or more, begins when its last gradient is final, but
    always after those of the buckets before it: collectives are paired by their order, so ranks
    whose gradients finish in different orders would otherwise add different buckets. `wait()` ends
    them all, and stands before the update.

    A rank with several micro-batches a step (`parts`) calls `set_aside()` between their sweeps.
    Their gradients are added along the tree of `reproducible`, and the exchange begins with the
    last sweep. A rank without any contributes nothing, but takes part in the exchange. Without
    hooks (`hooked`) it only adds up a rank's own micro-batches, which `end_branch` ends. `compress`
    names a scheme of `compression`, and its share or rank."""

    def __init__(
        self,
        flat: FlatParameters,
        reducer: Reducer,
        bucket_bytes: int = 1 << 20,
        parts: int = 1,
        hooked: bool = True,
        compress: tuple[str, float] = ("none", 0),
    ) -> None:
        self.flat = flat
        self.reducer = reducer
        self.merges = merges(max(parts, 1))
        self.part = 0  # the micro-batch under way
        # A stack: sums of branches of the tree whose other half is still to come. Buffers stay
        # allocated from step to step, `depth` of them are in use.
        self.branch_sums: list[Array] = []
        self.depth = 0
        self.buckets: list[Bucket] = []
        self.home: dict[int, Bucket] = {}  # bucket of a parameter, by its id
        self.started = 0  # buckets, from the first on, whose exchange has begun
        self._cut(bucket_bytes)
        self.compressor: Compressor | None = None
        if compress[0] != "none" and reducer.comm.size > 1:
            starts = [bucket.start for bucket in self.buckets]
            self.compressor = Compressor(compress, flat, reducer, starts)
        self.residuals = Residuals(flat)  # of an earlier run, if this one does not compress
        self.exchanging = True  # else a branch is computed, and its sum over the ranks left out
        # Alone, nobody waits for a sum: there is nothing to begin early.
        for p in flat.parameters if hooked and reducer.comm.size > 1 else ():
            p.post_grad_hooks.append(self._finished)

    def _cut(self, bucket_bytes: int) -> None:
        """Cut the flat buffer between parameters into buckets of at least the given size."""
        group: list[Parameter] = []
        start = size = 0
        last = len(self.flat.parameters) - 1
        for i, p in enumerate(self.flat.parameters):
            group.append(p)
            size += p.size
            if i == last or size * p.dtype.itemsize >= bucket_bytes:
                bucket = Bucket(self.flat.grad.view(start, (size,)), start, len(group))
                self.buckets.append(bucket)
                self.home.update({id(member): bucket for member in group})
                start, size, group = start + size, 0, []

    def set_aside(self) -> None:
        """End a micro-batch that is not the last of this rank: its gradients, zeros where there
        was no sweep, are added to those before as far as the tree says, and wait for the rest."""
        if self.part + 1 >= len(self.merges):
            raise RuntimeError(
                f"set_aside: expected {len(self.merges)} micro-batches on this rank, got more"
            )
        with context.using(phase="communicate", scope="gradients", tape=None):
            self.flat.zero_missing()
            self._merge(self.flat.grad, 0)
            self.depth -= self.merges[self.part]
            if self.depth == len(self.branch_sums):
                self.branch_sums.append(
                    zeros(self.flat.grad.spec.size, dtype=self.flat.dtype).array
                )
            store(self.branch_sums[self.depth], self.flat.grad)
        self.depth += 1
        self.part += 1
        for p in self.flat.parameters:
            p.grad = None

    def _merge(self, slot: Array, start: int) -> None:
        """Add to a slice of the gradients the sums set aside that it completes."""
        for level in range(self.depth - 1, self.depth - 1 - self.merges[self.part], -1):
            accumulate(slot, self.branch_sums[level].view(start, slot.spec.shape))

    def _finished(self, parameter: Tensor) -> None:
        """Hear that a gradient is final for this sweep."""
        if not self.exchanging or self.part + 1 < len(self.merges):
            return
        self.home[id(parameter)].missing -= 1
        self.reducer.poll()
        ready = self.started
        while ready < len(self.buckets) and self.buckets[ready].missing <= 0:
            ready += 1
        if ready > self.started:
            self._begin(ready)

    def _begin(self, stop: int) -> None:
        """Begin the exchange of buckets in order, up to a number."""
        with context.using(phase="communicate", scope="gradients", tape=None):
            while self.started < stop:
                bucket = self.buckets[self.started]
                self._merge(bucket.array, bucket.start)
                if self.compressor:
                    self.compressor.exchange(bucket.array, bucket.start)
                else:
                    _exchange(bucket.array, self.reducer)
                self.started += 1

    def end_branch(self) -> None:
        """End the last micro-batch without an exchange: the gradients are the sums over those of
        this rank."""
        with context.using(phase="communicate", scope="gradients", tape=None):
            self.flat.zero_missing()
            self._merge(self.flat.grad, 0)
        self.started = self.part = self.depth = 0

    def wait(self) -> None:
        """Contribute zeros for parameters without a gradient, begin what has not begun, and return
        when every gradient is the sum over the ranks. RuntimeError before the last micro-batch."""
        if self.part + 1 < len(self.merges):
            raise RuntimeError(
                f"wait: expected {len(self.merges)} micro-batches on this rank, got {self.part + 1}"
            )
        with context.using(phase="communicate", scope="gradients", tape=None):
            self.flat.zero_missing()
        # A rank whose sweep did not reach some parameters, or that had no samples at all, begins
        # its buckets only here. Every rank must begin every bucket, in one order.
        self._begin(len(self.buckets))
        self.reducer.wait()
        with context.using(phase="communicate", scope="gradients", tape=None):
            self.residuals.settle()
        self.started = self.part = self.depth = 0
        for bucket in self.buckets:
            bucket.missing = bucket.members
