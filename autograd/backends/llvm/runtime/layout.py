"""How arrays lie in memory: kernels take images channels-last, all else in row-major order."""

from __future__ import annotations

import ctypes
import sys
from threading import local
from typing import TypeAlias

import numpy as np

from ....array import NDArray, Spec
from ....recent import WAYS, Recent
from .memory import MALLOC, empty, pool


class LayoutStats(local):
    """What calls of this thread left to NumPy because of how arrays lie in memory.

    `copies` counts copies into another order, `fallbacks` calls that NumPy computed. A recording
    compares both before and after a native call: if they differ, the addresses of kernels do not
    say all that the call did.
    """

    copies = 0
    fallbacks = 0

    def read(self) -> tuple[int, int]:
        """Return copies and fallbacks."""
        return self.copies, self.fallbacks


layout_stats = LayoutStats()


def _slow_address(x: NDArray) -> int:
    return int(x.__array_interface__["data"][0])


def _fast_address(x: NDArray) -> int:
    """Return the address of an array's first number by reading `data`, the first field of NumPy's
    array object behind Python's header: five times as fast as asking, and a kernel's call needs
    three."""
    return _field(id(x) + _HEADER).value


def _works() -> bool:
    """Tell whether array objects are laid out as `_fast_address` assumes, also for views."""
    x = np.zeros(4)
    return sys.implementation.name == "cpython" and all(
        _fast_address(part) == _slow_address(part) for part in (x, x[2:])
    )


_field, _HEADER = ctypes.c_size_t.from_address, object.__basicsize__
# Return the address of the first number.
address = _fast_address if _works() else _slow_address


class ChannelsLast:
    """Brings arrays (N, C, ..) of one shape channels-last, and makes results that are.

    Pixels lie image by image, (N, .., C), or where an array of `like` does so, images pixel by
    pixel, (.., N, C)."""

    def __init__(self, x: Spec) -> None:
        axes = len(x.shape)
        self.shape, self.dtype = x.shape, x.dtype
        self.orders = (0, *range(2, axes), 1), (*range(2, axes), 0, 1)
        self.order = self.orders[0]

    def like(self, x: NDArray) -> None:
        """Let arrays lie as x does, from now on."""
        first, second = self.orders
        turned = not x.transpose(first).flags.c_contiguous
        self.order = second if turned and x.transpose(second).flags.c_contiguous else first

    def last(self, x: NDArray) -> NDArray:
        """Return x with its channels last, in row-major order; a copy only where it does not lie so
        already."""
        return plain(x.transpose(self.order))

    def result(self) -> NDArray:
        """Return an uninitialised array of x's shape whose channels lie last."""
        y = empty(tuple([self.shape[i] for i in self.order]), self.dtype)
        return y.transpose(tuple([self.order.index(i) for i in range(len(self.order))]))


def channels_last(x: NDArray) -> NDArray:
    """Return x (N, C, H, W) as (N, H, W, C) in row-major order; a copy only where it does not lie
    so already."""
    return plain(x.transpose(0, 2, 3, 1))


def plain(x: NDArray) -> NDArray:
    """Return x in row-major order; a copy only where it does not lie so already."""
    if x.flags.c_contiguous:
        return x
    layout_stats.copies += 1
    return np.ascontiguousarray(x)


Strides: TypeAlias = tuple[int, ...]
Layout: TypeAlias = tuple[Strides, Strides]


class Layouts:
    """The layouts of arrays of one shape and type that are dense: without gaps, axes in any order.

    Element-wise kernels run over flat memory, so their arrays only have to lie alike. Layouts are
    looked up by strides.
    """

    def __init__(self, spec: Spec) -> None:
        self.shape, self.dtype = spec
        self.size, self.nbytes = spec.size, spec.nbytes
        self.known: Recent[Strides, Layout | None] = Recent(WAYS)
        self.plain = self._learn(np.empty(self.shape, self.dtype)) or ((), ())

    def of(self, x: NDArray) -> Layout | None:
        """Return the layout of a dense array and the strides of a new one like it; None for others.
        Strides of axes of one element do not count."""
        strides = x.strides
        try:
            return self.known[strides]
        except KeyError:
            self.known[strides] = lie = self._learn(x)
            return lie

    def _learn(self, x: NDArray) -> Layout | None:
        like = np.empty_like(x).strides
        if any(a != b and n > 1 for a, b, n in zip(x.strides, like, self.shape, strict=True)):
            return None
        return tuple(a if n > 1 else 0 for a, n in zip(like, self.shape, strict=True)), like

    def along(self, axis: int) -> Layout:
        """Return the layout whose last axis in memory is `axis`, the others in their order."""
        order = [*(i for i in range(len(self.shape)) if i != axis), axis]
        x = np.empty([self.shape[i] for i in order], self.dtype)
        return self.of(x.transpose(np.argsort(order))) or self.plain

    def new(self, strides: Strides) -> NDArray:
        """Return an uninitialised array with given strides."""
        memory = pool.take(self.nbytes) if self.nbytes > MALLOC else None
        return np.ndarray(self.shape, self.dtype, memory, 0, strides)

    def agree(self, *xs: NDArray) -> tuple[tuple[NDArray, ...], Strides]:
        """Return arrays that lie alike, and the strides of a result. Arrays that do not agree are
        copied: to channels-last if one of them is, else to the first dense one."""
        first = self.of(xs[0])
        if first is not None:
            strides = xs[0].strides
            if all(x.strides == strides or self.of(x) == first for x in xs[1:]):
                return xs, first[1]
        dense = [lie for lie in map(self.of, xs) if lie is not None]
        last = [lie for lie in dense if self.inner(lie, 1)]
        bare, strides = (last or dense or [self.plain])[0]
        return tuple(self._moved(x, bare, strides) for x in xs), strides

    def _moved(self, x: NDArray, bare: Strides, strides: Strides) -> NDArray:
        lie = self.of(x)
        return x if lie is not None and lie[0] == bare else self.moved(x, strides)

    def moved(self, x: NDArray, strides: Strides) -> NDArray:
        """Return a copy of x with given strides."""
        layout_stats.copies += 1
        y = self.new(strides)
        y[...] = x
        return y

    def inner(self, lie: Layout | None, axis: int) -> bool:
        """Tell whether `axis` is the innermost of a layout: its numbers lie side by side."""
        if lie is None or axis >= len(self.shape):
            return False
        return self.shape[axis] == 1 or lie[0][axis] == self.dtype.itemsize


def overlap(a: int, b: int, nbytes: int) -> bool:
    """Tell whether arrays at two addresses overlap without being the same."""
    return a != b and abs(a - b) < nbytes
