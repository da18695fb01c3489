"""Where numbers lie: kernels take images channels-last, everything else in row-major order."""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from ...array import NDArray, Spec
from .memory import empty


class Moves:
    """Counts the arrays that had to be copied into another order, and what else kernels that are
    marked as native left to NumPy (`aside`)."""

    count = 0
    aside = 0


def _slow_address(x: NDArray) -> int:
    return int(x.__array_interface__["data"][0])


def _fast_address(x: NDArray) -> int:
    """Read the field `data`, the first of NumPy's array object behind Python's header: five times
    as fast as asking for it, and a kernel's call needs three."""
    return _field(id(x) + _HEADER).value


def _works() -> bool:
    """Tell whether arrays are laid out so here."""
    x = np.zeros(4)
    return sys.implementation.name == "cpython" and all(
        _fast_address(part) == _slow_address(part) for part in (x, x[2:])
    )


_field, _HEADER = ctypes.c_size_t.from_address, object.__basicsize__
# Return the address of the first number.
address = _fast_address if _works() else _slow_address


class ChannelsLast:
    """Arrays (N, C, ..) of one shape, which kernels take with the channels last."""

    def __init__(self, x: Spec) -> None:
        axes = len(x.shape)
        self.order = (0, *range(2, axes), 1)
        self.back = (0, axes - 1, *range(1, axes - 1))
        self.shape, self.dtype = tuple(x.shape[i] for i in self.order), x.dtype

    def last(self, x: NDArray) -> NDArray:
        """Return x with its channels last, in row-major order; a copy only where it does not lie
        so already."""
        return plain(x.transpose(self.order))

    def result(self) -> NDArray:
        """Return an array of x's shape, without numbers yet, with its channels last."""
        return empty(self.shape, self.dtype).transpose(self.back)


def channels_last(x: NDArray) -> NDArray:
    """Return x (N, C, H, W) as (N, H, W, C) in row-major order; a copy only where it does not lie
    so already."""
    return plain(x.transpose(0, 2, 3, 1))


def plain(x: NDArray) -> NDArray:
    """Return x in row-major order."""
    if x.flags.c_contiguous:
        return x
    Moves.count += 1
    return np.ascontiguousarray(x)
