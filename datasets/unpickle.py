"""A pickle reader that builds nothing but arrays, numbers, bytes, strings and containers.

No callable that a file names is ever imported. The few globals that a pickled NumPy array needs are
answered with stand-ins defined here, which check what they are given: NumPy's own `ndarray` and
`dtype` would allocate whatever a file asks for, and take state that they do not check.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import DataError

# MemoryError and RecursionError: a pickle may ask for either in a few bytes.
BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8", "b1"}


def unpickle(data: bytes, where: str) -> dict[Any, Any]:
    """Return the dict that a pickle holds; Python 2 strings come as bytes.

    Anything else in it, or any global but those of a NumPy array, is an error that begins
    with `where`.
    """
    try:
        value = _Reader(io.BytesIO(data), where).load()
    except DataError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: not a readable pickle ({reason})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: the pickle holds a {type(value).__name__}, expected a dict")
    return {key: _value(item) for key, item in value.items()}


class _Reader(pickle.Unpickler):
    """Answers every global with a stand-in or with DataError."""

    def __init__(self, stream: io.BytesIO, where: str) -> None:
        super().__init__(stream, encoding="bytes")
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _ALLOWED.get((module, name))
        if stand_in is None:
            raise DataError(f"{self.where}: the pickle asks for {module}.{name}, which is refused")
        return stand_in()


class _StandIn:
    """Has no dict and takes no state, so a pickle cannot alter it; one is made for each use."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"state for {type(self).__name__}")


class _ArrayType(_StandIn):
    """For `numpy.ndarray`, which a pickle only ever names."""

    __slots__ = ()


class _Reconstruct(_StandIn):
    """For `_reconstruct`, which makes the empty array that state is then given to."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        if not isinstance(kind, _ArrayType):
            raise pickle.UnpicklingError("an array of an unknown class")
        return _Array()


class _MakeType(_StandIn):
    """For `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: object, align: object = 0, copy: object = 0) -> _ElementType:
        return _ElementType(_text(code))


class _Scalar(_StandIn):
    """For `scalar`; it becomes a plain number."""

    __slots__ = ()

    def __call__(self, kind: object, data: object = b"") -> Any:
        return _from_bytes(kind, (), data).item()


class _Encode(_StandIn):
    """What protocols 0 to 2 use to store bytes under Python 3."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("an encoding other than latin1")
        return text.encode("latin1")


class _ElementType:
    """An element type: integers, floats and bools only, no objects and no records."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if code not in NUMBERS:
            raise pickle.UnpicklingError(f"elements of type {code!r}")
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


class _Array:
    """An array in the making: `value` is set by its state (version, shape, type, order, data)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if fortran:
            self.value = _from_bytes(kind, tuple(reversed(shape)), data).T
        else:
            self.value = _from_bytes(kind, tuple(shape), data)


_ALLOWED: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _MakeType,
    ("_codecs", "encode"): _Encode,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Reconstruct), ("scalar", _Scalar))
    },
}


def _from_bytes(kind: object, shape: tuple[int, ...], data: object) -> NDArray[Any]:
    """Return an array over `data`; its size is compared with the shape's before."""
    if not isinstance(kind, _ElementType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("an array without an element type or without bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape}")
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"{len(data)} bytes for {kind.dtype} of shape {shape}")
    return np.frombuffer(data, kind.dtype).reshape(shape)


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _value(item: Any) -> Any:
    return item.value if isinstance(item, _Array) else item
