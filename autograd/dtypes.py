"""Element types: one table of what operations need to know about each. A new type is a new row."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

DType: TypeAlias = np.dtype[Any]

BOOL, INT64 = np.dtype(np.bool_), np.dtype(np.int64)
INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
try:  # NumPy has no bfloat16 of its own
    from ml_dtypes import bfloat16 as _bfloat16
except ImportError:
    BFLOAT16: DType | None = None
else:
    BFLOAT16 = np.dtype(_bfloat16)
COMPUTED = (FLOAT32, FLOAT64)  # that backends have kernels for
# Convolution and pooling take these alone: their sums run over blocks that are laid out for them.
KERNEL_TYPES = (*COMPUTED, *([BFLOAT16] if BFLOAT16 else ()))


class ElementType(NamedTuple):
    """A row of the table.

    A type can be written to another whose `rank` is at least as high, as in torch; sums and
    products over axes are formed in the `accumulator`. Where that is wider than a floating-point
    type, all arithmetic is done in it, and each result rounded once."""

    dtype: DType
    rank: int
    accumulator: DType


# Statistics over many elements (means and variances of batch norm) are formed in this type and
# rounded once: in float32 the sum over a batch of images would lose digits.
STATISTICS = FLOAT64

_BOOLEAN, _SIGNED, _UNSIGNED, _FLOATING = range(4)  # ranks


def _rows(rank: int, names: str, accumulator: DType | None = None) -> list[ElementType]:
    types = [np.dtype(name) for name in names.split()]
    return [ElementType(t, rank, accumulator or t) for t in types]


def _narrow(dtype: DType | None) -> list[ElementType]:
    return [ElementType(dtype, _FLOATING, FLOAT32)] if dtype else []


_TABLE = {
    row.dtype.newbyteorder(order): row
    for order in ("=", "S")  # also as files of other machines have it
    for row in [
        *_rows(_BOOLEAN, "bool", INT64),
        *_rows(_SIGNED, "int8 int16 int32 int64", INT64),
        *_rows(_UNSIGNED, "uint8 uint16 uint32 uint64", INT64),
        *_rows(_FLOATING, "float16 float32 float64 longdouble"),
        *_narrow(BFLOAT16),
    ]
}
_FLOATS = frozenset(t for t, row in _TABLE.items() if row.rank == _FLOATING)
_INTEGERS = frozenset(t for t, row in _TABLE.items() if row.rank in (_SIGNED, _UNSIGNED))


def element_type(dtype: DType) -> ElementType:
    """Return the row of a type. TypeError for one that is not in the table, such as complex."""
    if dtype not in _TABLE:
        raise TypeError(f"expected truth values, integers or floating-point numbers, got {dtype}")
    return _TABLE[dtype]


def is_floating(dtype: DType) -> bool:
    """Tell whether a type is floating-point: only such tensors have gradients."""
    return dtype in _FLOATS


def is_narrow(dtype: DType) -> bool:
    """Tell whether a type only stores numbers: arithmetic is done in its wider accumulator."""
    return dtype == BFLOAT16 and BFLOAT16 is not None


def computed_in(dtype: DType) -> DType:
    """Return the type in which arithmetic on a floating-point type is done: for most, itself."""
    return _TABLE[dtype].accumulator


def bfloat16() -> DType:
    """Return the type bfloat16. ImportError where ml_dtypes is not installed."""
    if BFLOAT16 is None:
        raise ImportError("bfloat16 needs ml_dtypes: pip install 'tallygrad[bfloat16]'")
    return BFLOAT16


def as_dtype(dtype: npt.DTypeLike) -> DType:
    """Return the type that a name, a class or a type of NumPy stands for. ImportError for bfloat16
    where ml_dtypes is not installed, TypeError for what is no type."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16()
    try:
        return np.dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"expected an element type such as 'float32' (the only device is 'cpu'), got {dtype!r}"
        ) from error


def is_integer(dtype: DType) -> bool:
    """Tell whether a type holds integers, signed or not."""
    return dtype in _INTEGERS


def category(dtype: DType) -> int:
    """Return the place of a type among truth values, integers and floating-point numbers: that of
    an operand without axes must be higher for it to widen one that has axes."""
    return 0 if is_boolean(dtype) else 1 if is_integer(dtype) else 2


def is_boolean(dtype: DType) -> bool:
    """Tell whether a type holds truth values."""
    return dtype == BOOL


def holds(dtype: DType, value: int) -> bool:
    """Tell whether a type can hold an integer; a floating-point type holds any, rounded."""
    if is_integer(dtype):
        return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
    return is_floating(dtype)


def plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's number, also within tuples, anything else as it is.

    NumPy's have types of their own, in which they compute, and another text."""
    if type(value) is tuple:
        return tuple([plain(v) for v in value])
    return value.item() if isinstance(value, np.generic) else value
