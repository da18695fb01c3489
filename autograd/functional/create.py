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
    "from_numpy",
    "full",
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


def zeros_like(input: Tensor) -> Tensor:
    """Return zeros of another tensor's shape and type."""
    return full(input.shape, 0.0, input.dtype)


def ones_like(input: Tensor) -> Tensor:
    """Return ones of another tensor's shape and type."""
    return full(input.shape, 1.0, input.dtype)


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

    They come from the generator that `manual_seed` restarts."""
    return Tensor(random.draw("uniform", integers(size), 0.0, 1.0, dtype), requires_grad)


def randn(
    *size: int | Sequence[int], dtype: npt.DTypeLike = FLOAT32, requires_grad: bool = False
) -> Tensor:
    """Return numbers drawn from the normal distribution of mean 0 and deviation 1.

    They come from the generator that `manual_seed` restarts."""
    return Tensor(random.draw("normal", integers(size), 0.0, 1.0, dtype), requires_grad)
