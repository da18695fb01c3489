"""Tensors from nothing or from numbers.

Where the backend is meta, filled tensors have a shape and no numbers. While a function is traced,
tensors made here are marked: a trace cannot make them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import backends, context, random
from ..array import Array, Spec, array
from ..dtypes import FLOAT32, FLOAT64, as_dtype, is_floating
from ..ops.shape import integers
from ..tensor import Tensor

__all__ = [
    "arange",
    "empty",
    "empty_like",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "logspace",
    "meshgrid",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "tensor",
    "zeros",
    "zeros_like",
]


def _new(a: Array, requires_grad: bool = False) -> Tensor:
    """Return a tensor on an array that comes from no call, and tell the observer, which must
    know."""
    observer = context.current().observer
    if observer is not None:
        observer.created.append(a)
    return Tensor(a, requires_grad)


def tensor(
    data: npt.ArrayLike, dtype: npt.DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor with a copy of the data.

    Python floats become float32; arrays and tensors, those in lists too, keep their type unless
    `dtype` is given."""
    numbers = np.array(data, None if dtype is None else as_dtype(dtype))
    if dtype is None and numbers.dtype == FLOAT64 and _python(data):
        numbers = numbers.astype(FLOAT32)
    return _new(array(numbers), requires_grad)


def _python(data: Any) -> bool:
    """Tell whether all numbers are Python's own, in lists or not."""
    if isinstance(data, list | tuple):
        return all(map(_python, data))
    return type(data) in (bool, int, float)


def from_numpy(data: npt.NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of an ndarray: writes to one are seen by the other."""
    return _new(array(data))


def full(
    size: int | Sequence[int],
    fill_value: float,
    dtype: npt.DTypeLike = FLOAT32,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of extents `size` with one value everywhere."""
    spec = Spec(integers((size,)), as_dtype(dtype))
    computes = backends.computes()
    numbers = np.full(spec.shape, fill_value, spec.dtype) if computes else None
    return _new(Array(spec, numbers), requires_grad)


def zeros(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return zeros; extents are listed one by one or as one sequence."""
    return full(integers(size), 0.0, dtype, requires_grad)


def ones(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return ones; extents are listed one by one or as one sequence."""
    return full(integers(size), 1.0, dtype, requires_grad)


def empty(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return zeros, for numbers to be written to; extents are listed as for `zeros`."""
    return zeros(*size, dtype=dtype, requires_grad=requires_grad)


def full_like(
    input: Tensor,
    fill_value: float,
    *,
    dtype: npt.DTypeLike | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return one value everywhere in another tensor's shape, and its type unless `dtype` is
    given."""
    return full(input.shape, fill_value, input.dtype if dtype is None else dtype, requires_grad)


def zeros_like(
    input: Tensor, *, dtype: npt.DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """Return zeros of another tensor's shape, and its type unless `dtype` is given."""
    return full_like(input, 0.0, dtype=dtype, requires_grad=requires_grad)


empty_like = zeros_like


def ones_like(
    input: Tensor, *, dtype: npt.DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """Return ones of another tensor's shape, and its type unless `dtype` is given."""
    return full_like(input, 1.0, dtype=dtype, requires_grad=requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return the matrix (n, m) with ones on its diagonal; m is n by default."""
    return _new(array(np.eye(n, m, dtype=as_dtype(dtype))), requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: npt.DTypeLike = FLOAT32,
    requires_grad: bool = False,
) -> Tensor:
    """Return `steps` numbers at equal distances from start to end, both included."""
    return _new(array(np.linspace(start, end, steps), as_dtype(dtype)), requires_grad)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: npt.DTypeLike = FLOAT32,
    requires_grad: bool = False,
) -> Tensor:
    """Return powers of `base` whose exponents are `linspace(start, end, steps)`."""
    numbers = np.logspace(start, end, steps, base=base)
    return _new(array(numbers, as_dtype(dtype)), requires_grad)


def meshgrid(*tensors: Tensor | Sequence[Tensor], indexing: str = "ij") -> list[Tensor]:
    """Return the coordinates of a grid, from vectors of those along each axis.

    With indexing="xy" the first two axes are exchanged. ValueError for another word and for
    tensors that are no vectors."""
    vectors = [x for t in tensors for x in ([t] if isinstance(t, Tensor) else t)]
    if indexing not in ("ij", "xy"):
        raise ValueError(f"meshgrid: expected indexing 'ij' or 'xy', got {indexing!r}")
    if any(x.ndim > 1 for x in vectors):
        raise ValueError(f"meshgrid: expected vectors, got shapes {[x.shape for x in vectors]}")
    shape = [x.numel() for x in vectors]
    grids = [
        x.reshape([-1 if i == k else 1 for k in range(len(shape))]).expand(*shape)
        for i, x in enumerate(vectors)
    ]
    return [g.transpose(0, 1) for g in grids] if indexing == "xy" and len(shape) > 1 else grids


def arange(*bounds: float, dtype: npt.DTypeLike | None = None) -> Tensor:
    """Return start, start + step, .. below stop, as in numpy.arange: int64 for whole bounds, else
    float32."""
    numbers = np.arange(*bounds)
    default = FLOAT32 if is_floating(numbers.dtype) else numbers.dtype
    return _new(array(numbers, as_dtype(dtype or default)))


def rand(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return numbers drawn uniformly from [0, 1).

    They come from the generator that `manual_seed` restarts, in a step of training from the
    step's."""
    return Tensor(random.draw("uniform", integers(size), 0.0, 1.0, dtype), requires_grad)


def randn(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return numbers drawn from the normal distribution of mean 0 and deviation 1.

    They come from the generator that `manual_seed` restarts, in a step of training from the
    step's."""
    return Tensor(random.draw("normal", integers(size), 0.0, 1.0, dtype), requires_grad)
