"""Numbers of bfloat16 as bits, with NumPy alone and without the engine."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

DType: TypeAlias = np.dtype[Any]

NAME = "bfloat16"
BITS: DType = np.dtype([(NAME, "<u2")])  # a type of NumPy's own for what it cannot compute with


def to_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of floats rounded to bfloat16, half to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16(codes: NDArray[Any]) -> NDArray[Any]:
    """Return the floats that bits of bfloat16 stand for."""
    return (codes.astype(np.uint32) << 16).view(np.float32)


def as_bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of ml_dtypes' bfloat16 as one of BITS, others as they are."""
    return array.view(BITS) if array.dtype.name == NAME else array


def as_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of BITS in float32, others as they are."""
    return from_bfloat16(array[NAME]) if array.dtype == BITS else array
