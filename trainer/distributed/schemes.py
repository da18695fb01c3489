"""Schemes of compression: what ranks send each other instead of a bucket of gradients, and what is
lost by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from ...autograd.array import NDArray, Spec
from ...autograd.ledger import Cost
from ...autograd.primitive import Primitive, primitive
from ..bfloat16 import from_bfloat16, to_bfloat16
from ..cost.cluster.compression import CODE_BYTES, INDEX_BYTES, kept, low_rank
from .comm import Request
from .exchange import Reducer, Sum, Summation, TreeSum, piece
from .reproducible import fold

LARGEST_HALF = 65504.0  # of float16
DType: TypeAlias = np.dtype[Any]
Codec: TypeAlias = tuple[Callable[[NDArray], NDArray], Callable[[NDArray], NDArray]]


def to_float16(values: NDArray) -> NDArray:
    """Return the bits of floats rounded to float16; what is too large becomes the largest one."""
    return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).view(np.uint16)


def from_float16(codes: NDArray) -> NDArray:
    """Return the floats that bits of float16 stand for."""
    return codes.view(np.float16).astype(np.float32)


CODECS: dict[str, Codec] = {
    "bf16": (to_bfloat16, from_bfloat16),
    "fp16": (to_float16, from_float16),
}


class Scheme(Protocol):
    """How one bucket is compressed."""

    primitive: Primitive

    def cost(self, g: Spec) -> Cost:
        """Return the work of an exchange, with that of compression, on one rank."""

    def start(self, g: NDArray, residual: NDArray) -> None:
        """Begin to overwrite g with the sum of what ranks keep of theirs; what this rank loses is
        written to the residual."""


def _cost(y: None, g: Spec, residual: Spec, *, through: Scheme) -> Cost:
    """Cost of a compressed exchange, as its scheme counts it."""
    return through.cost(g)


@primitive(infer=lambda g, residual, *, through: (), cost=_cost, writes=(0, 1), alias=0)
def allreduce_half(g: NDArray, residual: NDArray, *, through: Scheme) -> None:
    """Begin g = the sum over the ranks of g in 16 bits; the reducer's `wait` ends it."""
    through.start(g, residual)


@primitive(infer=lambda g, residual, *, through: (), cost=_cost, writes=(0, 1), alias=0)
def allreduce_top_k(g: NDArray, residual: NDArray, *, through: Scheme) -> None:
    """Begin g = the sum over the ranks of the largest numbers of g; the reducer's `wait` ends
    it."""
    through.start(g, residual)


@primitive(infer=lambda g, residual, *, through: (), cost=_cost, writes=(0, 1), alias=0)
def allreduce_low_rank(g: NDArray, residual: NDArray, *, through: Scheme) -> None:
    """Begin g = the sum over the ranks of matrices of low rank near those of g; the reducer's
    `wait` ends it."""
    through.start(g, residual)


class HalfSum(TreeSum):
    """A sum of codes of 16 bits: ranks decode the pieces that they add up, and send back codes of
    the sums. What that loses stays in the `lost` of the rank that added, for the next step (Tang et
    al., "DoubleSqueeze", 2019)."""

    def __init__(
        self, summation: Summation, codec: Codec, g: NDArray, residual: NDArray, lost: NDArray
    ) -> None:
        super().__init__(summation.comm, summation.back, g, summation.owners)
        self._codec, self._residual, self._lost = codec, residual, lost

    def _content(self) -> NDArray:
        encode, decode = self._codec
        codes = encode(self._array)
        np.subtract(self._array, decode(codes), out=self._residual)
        return codes

    def _fold(self) -> NDArray:
        encode, decode = self._codec
        pieces = [decode(self._pieces[rank]) for rank in self._owners]
        numbers = [piece.astype(self._array.dtype, copy=False) for piece in pieces]
        total = fold(numbers, lambda a, b: np.add(a, b, out=a))
        total += self._lost
        codes = encode(total)
        np.subtract(total, decode(codes), out=self._lost)
        return codes

    def _put(self) -> None:
        numbers = self._codec[1](self._sums.reshape(-1)[: self._array.size])
        self._array[...] = numbers.reshape(self._array.shape)


class Half:
    """Rounds to 16 bits, with the codec of a name. `lost` is what the sums of this rank's piece
    lost."""

    primitive = allreduce_half

    def __init__(self, reducer: Reducer, name: str, size: int, dtype: DType) -> None:
        self._reducer, self._codec = reducer, CODECS[name]
        self._summation = reducer.summation("half", fixed=True)
        self.lost = np.zeros(piece(size, reducer.comm.size), dtype)

    def cost(self, g: Spec) -> Cost:
        """Return the work on one rank: half of the bytes of a ring in float32, and for each of its
        numbers a subtraction; the sums of its piece besides."""
        p, mine = self._reducer.comm.size, piece(g.size, self._reducer.comm.size)
        moved = 2 * (p - 1) * CODE_BYTES * g.size // p
        return Cost(
            add=g.size + (p + 1) * mine,
            bytes_read=2 * g.nbytes + moved,
            bytes_written=2 * g.nbytes + moved,
            bytes_sent=moved,
            messages=2 * (p - 1),
        )

    def start(self, g: NDArray, residual: NDArray) -> None:
        """Begin to round and exchange."""
        self._reducer.begin(HalfSum(self._summation, self._codec, g, residual, self.lost))


class TopKSum:
    """A sum of the `count` largest numbers of each rank, which all ranks gather with their
    indices."""

    def __init__(self, summation: Summation, count: int, array: NDArray, residual: NDArray) -> None:
        self._summation, self._count = summation, count
        self._array, self._residual = array, residual
        self._request: Request | None = None

    def start(self) -> None:
        """Select, and begin the exchange."""
        g, first = self._array, self._array.size - self._count
        indices = np.sort(np.argpartition(np.abs(g), first)[first:]).astype(np.int32)
        packed = np.concatenate([indices.view(np.uint8), g[indices].view(np.uint8)])
        self._residual[...] = g
        self._residual[indices] = 0
        self._request, self._all = self._summation.comm.iallgather(packed)

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""
        if self._request is None or not self._request.test():
            return False
        self._put()
        return True

    def finish(self) -> None:
        """Return once the sum is there."""
        if self._request is None:
            self.start()
        assert self._request is not None
        self._request.wait()
        self._put()

    def _put(self) -> None:
        self._array[...] = 0
        split = self._count * INDEX_BYTES
        for rank in self._summation.owners:
            packed = self._all[rank]
            indices = packed[:split].copy().view(np.int32)
            self._array[indices] += packed[split:].copy().view(self._array.dtype)


class TopK:
    """Sends the numbers of largest magnitude, a `share` of them, and their indices (Aji and
    Heafield, "Sparse Communication for Distributed Gradient Descent", 2017)."""

    primitive = allreduce_top_k

    def __init__(self, reducer: Reducer, share: float, size: int) -> None:
        self._reducer, self._count = reducer, kept(size, share)
        self._summation = reducer.summation("top k")

    def cost(self, g: Spec) -> Cost:
        """Return the work on one rank: a comparison for each number, and an allgather over a ring
        of what ranks keep."""
        p, count = self._reducer.comm.size, self._count
        moved = (p - 1) * count * (INDEX_BYTES + g.dtype.itemsize)
        return Cost(
            cmp=g.size,
            add=p * count,
            bytes_read=2 * g.nbytes + moved,
            bytes_written=2 * g.nbytes + moved,
            bytes_sent=moved,
            messages=p - 1,
        )

    def start(self, g: NDArray, residual: NDArray) -> None:
        """Begin to select and exchange."""
        self._reducer.begin(TopKSum(self._summation, self._count, g, residual))


def _norm(x: NDArray) -> Any:
    # Not by BLAS, which may add in another order with other threads.
    return np.sqrt((x * x).sum())


def orthogonalise(columns: NDArray) -> NDArray:
    """Make the columns of a matrix orthonormal, in place, by the modified Gram-Schmidt process;
    columns that depend on others become zeros."""
    for i in range(columns.shape[1]):
        column = columns[:, i]
        before = _norm(column)
        for earlier in columns.T[:i]:
            column -= (earlier * column).sum() * earlier
        norm = _norm(column)
        # What is left of a dependent column is rounding, of no direction.
        column *= 1 / norm if norm > 1e-6 * before else 0
    return columns


class Matrix:
    """A parameter's gradient as a matrix (rows, all other axes): a slice of a bucket, and its right
    factor of the step before, (columns, rank), which the next one begins with."""

    def __init__(
        self, start: int, shape: tuple[int, int], rank: int, seed: int, dtype: DType
    ) -> None:
        self.start, self.shape, self.rank = start, shape, rank
        # The same on all ranks.
        right = np.random.default_rng(seed).standard_normal((shape[1], rank))
        self.right: NDArray = right.astype(dtype)

    @property
    def stop(self) -> int:
        """The end of the slice."""
        return self.start + self.shape[0] * self.shape[1]

    def of(self, bucket: NDArray) -> NDArray:
        """Return the matrix in a bucket."""
        return bucket[self.start : self.stop].reshape(self.shape)


class LowRankSum:
    """Two sums, one after the other: of the left factors, with what is not a matrix, and of the
    right factors."""

    def __init__(self, scheme: LowRank, g: NDArray, residual: NDArray) -> None:
        self._scheme, self._g, self._residual = scheme, g, residual
        self._stage: Sum | None = None
        self._is_second = False

    def start(self) -> None:
        """Multiply, and begin the first sum."""
        self._begin().start()

    def _begin(self) -> Sum:
        left = [(m.of(self._g) @ m.right).reshape(-1) for m in self._scheme.matrices]
        self._first = np.concatenate([*left, self._g[self._scheme.rest]])
        self._stage = self._scheme.first.sum(self._first)
        return self._stage

    def advance(self) -> bool:
        """Drive the exchange without waiting; true once the sum is there."""
        if self._stage is None or not self._stage.advance():
            return False
        if not self._is_second and not self._factor().advance():
            return False
        self._put()
        return True

    def finish(self) -> None:
        """Return once the sum is there."""
        stage = self._stage or self._begin()
        stage.finish()
        if not self._is_second:
            self._factor().finish()
        self._put()

    def _factor(self) -> Sum:
        """Project the matrices on the left factors, and begin the sum of the right ones."""
        self._is_second, self._left, right, end = True, [], [], 0
        for m in self._scheme.matrices:
            begin, end = end, end + m.shape[0] * m.rank
            left = orthogonalise(self._first[begin:end].reshape(-1, m.rank))
            own = m.of(self._g).T @ left
            m.of(self._residual)[...] = m.of(self._g) - left @ own.T
            self._left.append(left)
            right.append(own.reshape(-1))
        self._rest = self._first[end:]
        self._second = np.concatenate([*right, np.zeros(0, self._g.dtype)])
        self._stage = self._scheme.second.sum(self._second)
        # Not in `finish`, whose blocking call could meet one that another rank has begun in
        # `advance`: MPI does not pair these two kinds.
        self._stage.start()
        return self._stage

    def _put(self) -> None:
        end = 0
        for m, left in zip(self._scheme.matrices, self._left, strict=True):
            begin, end = end, end + m.shape[1] * m.rank
            m.right = self._second[begin:end].reshape(-1, m.rank)
            m.of(self._g)[...] = left @ m.right.T
        self._g[self._scheme.rest] = self._rest
        self._residual[self._scheme.rest] = 0


class LowRank:
    """Sends factors of each matrix by one step of power iteration, and smaller parameters as they
    are (Vogels, Karimireddy and Jaggi, "PowerSGD", 2019, algorithm 1)."""

    primitive = allreduce_low_rank

    def __init__(
        self,
        reducer: Reducer,
        rank: int,
        offset: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DType,
    ) -> None:
        self._reducer, self.matrices, start = reducer, list[Matrix](), 0
        for shape in shapes:
            if factors := low_rank(shape, rank):
                self.matrices.append(Matrix(start, *factors, offset + start, dtype))
            start += int(np.prod(shape))
        self.rest = np.ones(start, bool)  # elements that are exchanged as they are
        for m in self.matrices:
            self.rest[m.start : m.stop] = False
        self.first = reducer.summation("left factors")
        self.second = reducer.summation("right factors")

    def cost(self, g: Spec) -> Cost:
        """Return the work on one rank: four products of a matrix with a factor, the Gram-Schmidt
        process, and two rings. Products count as multiplications and additions: MACs are those of
        the model."""
        p, rest = self._reducer.comm.size, int(self.rest.sum())
        products = sum(4 * m.shape[0] * m.shape[1] * m.rank for m in self.matrices)
        products += sum(m.shape[0] * m.rank * (m.rank + 1) for m in self.matrices)
        sent = rest + sum(sum(m.shape) * m.rank for m in self.matrices)
        moved = 2 * (p - 1) * sent * g.dtype.itemsize // p
        return Cost(
            mul=products,
            add=products + g.size - rest + (p - 1) * sent // p,
            bytes_read=4 * g.nbytes + moved,
            bytes_written=2 * g.nbytes + moved,
            bytes_sent=moved,
            messages=4 * (p - 1) if self.matrices else 2 * (p - 1),
        )

    def start(self, g: NDArray, residual: NDArray) -> None:
        """Begin to multiply and exchange."""
        self._reducer.begin(LowRankSum(self, g, residual))
