"""GradientSync: sums gradients over the ranks, bucket by bucket, while the sweep still runs."""

from __future__ import annotations

from collections.abc import Sequence

from ...autograd import context
from ...autograd.array import Array, NDArray, Spec, array
from ...autograd.ledger import Cost
from ...autograd.nn.flat import Flat
from ...autograd.ops.reduce import scale
from ...autograd.ops.update import store
from ...autograd.primitive import primitive
from ...autograd.tensor import Parameter, Tensor
from .comm import Comm, Request


class Reducer:
    """Sums arrays over the ranks: `start` begins, `wait` ends all that were begun."""

    def __init__(self, comm: Comm) -> None:
        self.comm = comm
        self.pending: list[Request] = []

    def start(self, array: NDArray) -> None:
        """Begin to overwrite an array with its sum over the ranks."""
        self.pending.append(self.comm.iallreduce(array))

    def wait(self) -> None:
        """Return when every sum is there."""
        for request in self.pending:
            request.wait()
        self.pending.clear()


def _ring(y: None, g: Spec, *, through: Reducer) -> Cost:
    """Cost of a ring allreduce for one rank (Patarasuk and Yuan 2009): 2 (p-1) messages, in all
    2 (p-1)/p of the array; (p-1)/p of it is added. What MPI really chooses is not observable."""
    p = through.comm.size
    moved = 2 * (p - 1) * g.nbytes // p
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


class Bucket:
    """A slice of the flat gradient buffer, and how many of its parameters are still unready."""

    def __init__(self, array: Array, members: int) -> None:
        self.array = array
        self.members = members
        self.missing = members


class GradientSync:
    """Hooks the leaves of a model whose gradients live in `flat`. A bucket's exchange begins when
    its last gradient is final; always in the same order, whatever finishes first, or ranks would
    pair different buckets. `wait()` stands before the update."""

    def __init__(self, flat: Flat, comm: Comm, bucket_bytes: int = 1 << 20) -> None:
        self.flat = flat
        self.reducer = Reducer(comm)
        self.buckets: list[Bucket] = []
        self.home: dict[int, Bucket] = {}
        self.started = 0
        self._cut(bucket_bytes)
        for p in flat.parameters:
            p.ready.append(self._finished)

    def _cut(self, bucket_bytes: int) -> None:
        """Cut the flat buffer between parameters into buckets of at least the given size."""
        group: list[Parameter] = []
        start = size = 0
        last = len(self.flat.parameters) - 1
        for i, p in enumerate(self.flat.parameters):
            group.append(p)
            size += p.size
            if i == last or size * p.dtype.itemsize >= bucket_bytes:
                bucket = Bucket(self.flat.grad.view(start, (size,)), len(group))
                self.buckets.append(bucket)
                self.home.update({id(member): bucket for member in group})
                start, size, group = start + size, 0, []

    def _finished(self, parameter: Tensor) -> None:
        self.home[id(parameter)].missing -= 1
        self._begin(len(self.buckets), only_ready=True)

    def _begin(self, stop: int, only_ready: bool) -> None:
        with context.using(phase="communicate", scope="gradients", tape=None):
            while self.started < stop:
                bucket = self.buckets[self.started]
                if only_ready and bucket.missing > 0:
                    return
                allreduce(bucket.array, through=self.reducer)
                self.started += 1

    def wait(self) -> None:
        """Contribute zeros for parameters without a gradient, begin what has not begun, and return
        when every gradient is the sum over the ranks."""
        with context.using(phase="communicate", scope="gradients", tape=None):
            self.flat.zero_missing()
        self._begin(len(self.buckets), only_ready=False)
        self.reducer.wait()
        self.started = 0
        for bucket in self.buckets:
            bucket.missing = bucket.members


def _sum(arrays: Sequence[Array], comm: Comm) -> None:
    reducer = Reducer(comm)
    for a in arrays:
        allreduce(a, through=reducer)
    reducer.wait()


def average(tensors: Sequence[Tensor], comm: Comm) -> None:
    """Overwrite tensors with their means over the ranks: running statistics of batch norm, which
    each rank gathers of its own share."""
    with context.using(phase="communicate", scope="buffers", tape=None):
        _sum([t.data for t in tensors], comm)
        for t in tensors:
            store(t.data, scale(t.data, factor=1.0 / comm.size))


def total(values: NDArray, comm: Comm) -> None:
    """Overwrite figures with their sums over the ranks."""
    with context.using(phase="communicate", scope="metrics", tape=None):
        _sum([array(values)], comm)
