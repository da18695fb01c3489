"""Element types and constants by torch's names; `bfloat16` is made on demand.

`bool`, `int` and `float` are names here too, but not in `__all__`: they would hide Python's."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import BOOL, FLOAT32, FLOAT64, INT8, INT64, UINT8, DType, as_dtype, is_narrow

__all__ = [
    "double",
    "dtype",
    "e",
    "finfo",
    "float16",
    "float32",
    "float64",
    "half",
    "iinfo",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "long",
    "nan",
    "newaxis",
    "pi",
    "short",
    "uint8",
]

dtype = np.dtype
iinfo = np.iinfo
float16 = half = np.dtype(np.float16)
float32 = float = FLOAT32
float64 = double = FLOAT64
int8, uint8 = INT8, UINT8
int16 = short = np.dtype(np.int16)
int32 = int = np.dtype(np.int32)
int64 = long = INT64
bool: DType = BOOL
e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
newaxis = None


def finfo(type: npt.DTypeLike = FLOAT32) -> Any:
    """Return the limits of a floating-point type, such as `min` and `eps`, as NumPy's or, for
    bfloat16, ml_dtypes' finfo has them. ValueError for a type of another kind."""
    kind = as_dtype(type)
    return import_module("ml_dtypes").finfo(kind) if is_narrow(kind) else np.finfo(kind)
