"""Batch normalisation: plans for images, and for any array (N, C, ..)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ...array import NDArray, Spec
from .jit import build
from .layout import Moves, address, plain
from .memory import empty
from .passes import arranged, gradient, gradient_sums, normalise
from .registry import Kernel, implements
from .targets import Target


class _Room(threading.local):
    """Memory for sums and coefficients, of each thread its own, as kernels run side by side."""

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size, np.uint8)
        self.address = address(self.memory)


class _Call:
    """What the calls of a plan share: the order of axes with channels last, and the sizes."""

    def __init__(self, target: Target, x: Spec) -> None:
        self.rows, self.extent = arranged(target, x)
        axes = len(x.shape)
        self.order = (0, *range(2, axes), 1)
        self.back = (0, axes - 1, *range(1, axes - 1))
        self.shape = tuple(x.shape[i] for i in self.order)
        self.dtype = x.dtype
        padded = -(-self.rows.width // target.lanes(x.dtype)) * target.lanes(x.dtype)
        self.room = _Room(padded * (16 + 4 * x.dtype.itemsize))

    def last(self, x: NDArray) -> NDArray:
        """Return x with its channels last, in row-major order; a copy only where need be."""
        y = x.transpose(self.order)
        if y.flags.c_contiguous:
            return y
        Moves.count += 1
        return np.ascontiguousarray(y)

    def result(self) -> NDArray:
        """Return an array of x's shape with its channels last."""
        return empty(self.shape, self.dtype).transpose(self.back)

    def each(self) -> tuple[NDArray, int, int]:
        """Return two arrays for a number per channel, in one, and their addresses."""
        pair = np.empty((2, self.rows.channels), self.dtype)
        start = address(pair)
        return pair, start, start + self.rows.channels * self.dtype.itemsize


def _alike(*specs: Spec) -> bool:
    return all(s.dtype == specs[0].dtype for s in specs)


@implements("batch_norm")
def batch_norm(target: Target, x: Spec, w: Spec, b: Spec, *, eps: float) -> Kernel | None:
    """Plan a normalisation with the batch's own statistics."""
    if not _alike(x, w, b):
        return None
    call = _Call(target, x)
    function = build(normalise, target, call.rows, float(eps), False)

    def run(x: NDArray, w: NDArray, b: NDArray, **_: Any) -> tuple[NDArray, NDArray, NDArray]:
        source, w, b = call.last(x), plain(w), plain(b)
        y, ((mean, var), *pair) = call.result(), call.each()
        arrays = address(source), None, address(w), address(b), *pair, address(y)
        function(*arrays, call.room.address, *call.extent)
        return y, mean, var

    return run


@implements("batch_norm_eval")
def batch_norm_eval(
    target: Target, x: Spec, w: Spec, b: Spec, mean: Spec, var: Spec, *, eps: float
) -> Kernel | None:
    """Plan a normalisation with given statistics."""
    if not _alike(x, w, b, mean, var):
        return None
    call = _Call(target, x)
    function = build(normalise, target, call.rows, float(eps), True)

    def run(x: NDArray, *channels: NDArray, **_: Any) -> NDArray:
        source, y, given = call.last(x), call.result(), [*map(plain, channels)]
        arrays = address(source), None, *map(address, given), address(y)
        function(*arrays, call.room.address, *call.extent)
        return y

    return run


@implements("batch_norm_sums")
def batch_norm_sums(
    target: Target, dy: Spec, x: Spec, mean: Spec, var: Spec, *, eps: float
) -> Kernel | None:
    """Plan the gradients of w and b."""
    if not _alike(dy, x, mean, var):
        return None
    call = _Call(target, x)
    function = build(gradient_sums, target, call.rows, float(eps))

    def run(
        dy: NDArray, x: NDArray, mean: NDArray, var: NDArray, **_: Any
    ) -> tuple[NDArray, NDArray]:
        arrays = call.last(dy), call.last(x), plain(mean), plain(var)
        (dw, db), *pair = call.each()
        function(*map(address, arrays), *pair, call.room.address, *call.extent)
        return dw, db

    return run


@implements("batch_norm_dx")
def batch_norm_dx(
    target: Target, dy: Spec, x: Spec, *channels: Spec, eps: float
) -> Kernel | None:
    """Plan the gradient of x."""
    if not _alike(dy, x, *channels):
        return None
    call = _Call(target, x)
    function = build(gradient, target, call.rows, float(eps))

    def run(dy: NDArray, x: NDArray, *channels: NDArray, **_: Any) -> NDArray:
        arrays = call.last(dy), call.last(x), *map(plain, channels)
        dx = call.result()
        function(*map(address, (*arrays, dx)), call.room.address, *call.extent)
        return dx

    return run
