"""GradientSync: sums gradients over the ranks, bucket by bucket, while the sweep still runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...autograd import context
from ...autograd.array import Array, NDArray, Spec, array
from ...autograd.functional.create import zeros
from ...autograd.ledger import Cost, Ledger
from ...autograd.nn.flat import FlatParameters
from ...autograd.nn.module import Module
from ...autograd.ops.reduce import scale
from ...autograd.ops.update import accumulate, store
from ...autograd.primitive import primitive
from ...autograd.tensor import Parameter, Tensor
from ..cost.cluster.allreduce import ring_volume
from .comm import Comm, Request
from .reproducible import FixedSum, fold, merges


class Reducer:
    """Sums arrays over the ranks: `start` begins, `wait` ends all that were begun. With `fixed`
    the additions are done along the tree of `reproducible`; otherwise MPI chooses their order."""

    def __init__(self, comm: Comm, fixed: bool = False) -> None:
        self.comm = comm
        self.fixed = fixed and comm.size > 2  # the sum of two numbers has one order
        self.pending: list[Request | FixedSum] = []

    def start(self, array: NDArray) -> None:
        """Begin to overwrite an array with its sum over the ranks."""
        whole = FixedSum(self.comm, array) if self.fixed else self.comm.iallreduce(array)
        self.pending.append(whole)

    def wait(self) -> None:
        """Return when every sum is there."""
        for request in self.pending:
            request.wait()
        self.pending.clear()


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
    last sweep."""

    def __init__(
        self, flat: FlatParameters, reducer: Reducer, bucket_bytes: int = 1 << 20, parts: int = 1
    ) -> None:
        self.flat = flat
        self.reducer = reducer
        self.merges = merges(parts)
        self.part = 0  # the micro-batch under way
        # A stack: sums of branches of the tree whose other half is still to come. Buffers stay
        # allocated from step to step, `depth` of them are in use.
        self.branch_sums: list[Array] = []
        self.depth = 0
        self.buckets: list[Bucket] = []
        self.home: dict[int, Bucket] = {}  # bucket of a parameter, by its id
        self.started = 0  # buckets, from the first on, whose exchange has begun
        self._cut(bucket_bytes)
        # Alone, nobody waits for a sum: there is nothing to begin early.
        for p in flat.parameters if reducer.comm.size > 1 else ():
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
                self.branch_sums.append(zeros(self.flat.grad.spec.size, dtype=self.flat.dtype).data)
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
        if self.part + 1 < len(self.merges):
            return
        self.home[id(parameter)].missing -= 1
        self._begin(len(self.buckets), only_ready=True)

    def _begin(self, stop: int, only_ready: bool) -> None:
        """Begin the exchange of buckets in order, up to the first that is not ready if wanted."""
        with context.using(phase="communicate", scope="gradients", tape=None):
            while self.started < stop:
                bucket = self.buckets[self.started]
                if only_ready and bucket.missing > 0:
                    return
                self._merge(bucket.array, bucket.start)
                allreduce(bucket.array, through=self.reducer)
                self.started += 1

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
        self._begin(len(self.buckets), only_ready=False)
        self.reducer.wait()
        self.started = self.part = self.depth = 0
        for bucket in self.buckets:
            bucket.missing = bucket.members


class MicroBatchBuffers:
    """The float buffers of a model that each micro-batch changes by itself, such as the running
    statistics of batch norm.

    There is a copy for each of the `mine` micro-batches of this rank, out of `parts`, so that no
    value depends on how many ranks share them. Evaluation and the model's part of a checkpoint use
    their mean; training continues with the copies."""

    def __init__(self, model: Module, reducer: Reducer, mine: range, parts: int) -> None:
        self.reducer, self.mine, self.parts = reducer, mine, parts
        named = [(name, b) for name, b in model.named_buffers() if b.dtype.kind == "f"]
        self.names = [name for name, _ in named]
        self.buffers = [b for _, b in named]
        self.copies = [[b.data for b in self.buffers]]
        if parts > 1:
            self.copies = [self._blank() for _ in mine]
        self.means = self._blank() if parts > 1 else self.copies[0]

    def _blank(self) -> list[Array]:
        return [zeros(b.shape, dtype=b.dtype).data for b in self.buffers]

    def spread(self) -> None:
        """Begin all copies with what the model's buffers hold."""
        with context.using(ledger=Ledger(), tape=None):
            for copies in self.copies:
                for copy, b in zip(copies, self.buffers, strict=True):
                    if copy is not b.data:
                        store(copy, b.data)

    def use(self, part: int) -> None:
        """Let the model read and write the copies of this rank's `part`-th micro-batch."""
        self._use(self.copies[part])

    def use_means(self) -> None:
        """Let the model read the means over the micro-batches of all ranks."""
        if self.parts == 1:
            return
        with context.using(phase="communicate", scope="buffers", tape=None):
            for mean, copies in zip(self.means, zip(*self.copies, strict=True), strict=True):
                sums = [mean]
                sums += [zeros(c.spec.shape, dtype=c.spec.dtype).data for c in copies[1:]]
                # `fold` overwrites what it adds: it gets copies of the copies.
                for slot, copy in zip(sums, copies, strict=True):
                    store(slot, copy)
                allreduce(fold(sums, accumulate), through=self.reducer)
            self.reducer.wait()
            for mean in self.means:
                store(mean, scale(mean, factor=1.0 / self.parts))
        self._use(self.means)

    def _use(self, arrays: list[Array]) -> None:
        for buffer, copy in zip(self.buffers, arrays, strict=True):
            buffer.rebind(copy)

    def state_dict(self) -> dict[str, NDArray]:
        """Return the copies of all micro-batches by name, (parts, ..), on rank 0; elsewhere, and
        with a single micro-batch, nothing. All ranks must call it."""
        state = {}
        for i, name in enumerate(self.names if self.parts > 1 else ()):
            mine = np.stack([copies[i].value for copies in self.copies])
            joined = b"".join(self.reducer.comm.gather_bytes(mine.tobytes()))
            if joined:
                state[name] = np.frombuffer(joined, mine.dtype).reshape(-1, *mine.shape[1:])
        return state

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state_dict` returned; where that is of another number of micro-batches,
        from the model's own buffers."""
        self.spread()
        for i, name in enumerate(self.names):
            rows = state.get(name)
            if rows is not None and rows.shape == (self.parts, *self.buffers[i].shape):
                for copies, part in zip(self.copies, self.mine, strict=True):
                    copies[i].write(rows[part])


def total(rows: NDArray, reducer: Reducer) -> NDArray:
    """Return the sum of figures (own micro-batches, n) over the micro-batches of all ranks, (n,);
    overwrites the rows."""
    with context.using(phase="communicate", scope="metrics", tape=None):
        whole = fold([array(row) for row in rows], accumulate)
        allreduce(whole, through=reducer)
        reducer.wait()
    return whole.value
