"""Batch normalisation: plans for images, and for any array (N, C, ..)."""

from __future__ import annotations

import threading

import numpy as np

from ...array import NDArray, Spec
from .jit import build
from .layout import Moves, address, plain
from .memory import empty
from .passes import Epilogue, arranged, gradient, gradient_sums, normalise, statistics
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

    def run(x: NDArray, w: NDArray, b: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        source, w, b = call.last(x), plain(w), plain(b)
        y, ((mean, var), *pair) = call.result(), call.each()
        arrays = address(source), None, address(w), address(b), *pair, address(y)
        function(*arrays, call.room.address, *call.extent)
        return y, mean, var

    return run


def moments(target: Target, x: Spec) -> Kernel:
    """Plan mean and variance of x."""
    call = _Call(target, x)
    function = build(statistics, target, call.rows)

    def run(x: NDArray, *_: NDArray) -> tuple[NDArray, NDArray]:
        source = call.last(x)
        (mean, var), *pair = call.each()
        function(address(source), *pair, call.room.address, *call.extent)
        return mean, var

    return run


@implements("batch_norm_eval")
def batch_norm_eval(
    target: Target, x: Spec, w: Spec, b: Spec, mean: Spec, var: Spec, *, eps: float
) -> Kernel | None:
    """Plan a normalisation with given statistics."""
    if not _alike(x, w, b, mean, var):
        return None
    return normalising(target, x, eps, Epilogue())


def normalising(target: Target, x: Spec, eps: float, epilogue: Epilogue) -> Kernel:
    """Plan a normalisation with given statistics, and what follows it: of x, w, b, mean, var and,
    where the epilogue wants one, a residual."""
    call = _Call(target, x)
    function = build(normalise, target, call.rows, float(eps), True, epilogue)

    def run(x: NDArray, *others: NDArray) -> NDArray:
        channels, residual = others[:4], others[4:]
        source, y = call.last(x), call.result()
        given, rest = [*map(plain, channels)], [*map(call.last, residual)]
        arrays = address(source), address(rest[0]) if rest else None, *map(address, given)
        function(*arrays, address(y), call.room.address, *call.extent)
        return y

    return run


@implements("batch_norm_sums")
def batch_norm_sums(
    target: Target, dy: Spec, x: Spec, mean: Spec, var: Spec, *, eps: float
) -> Kernel | None:
    """Plan the gradients of w and b."""
    if not _alike(dy, x, mean, var):
        return None
    return sums(target, x, eps, masked=False)


def sums(target: Target, x: Spec, eps: float, masked: bool) -> Kernel:
    """Plan the gradients of w and b, of dy, a mask if there is one, x, mean and var."""
    call = _Call(target, x)
    function = build(gradient_sums, target, call.rows, float(eps), masked)

    def run(dy: NDArray, *others: NDArray) -> tuple[NDArray, NDArray]:
        mask = [*map(call.last, others[:masked])]
        x, mean, var = others[masked:]
        arrays = call.last(x), plain(mean), plain(var)
        top = call.last(dy)
        (dw, db), *pair = call.each()
        given = address(top), address(mask[0]) if mask else None, *map(address, arrays)
        function(*given, *pair, call.room.address, *call.extent)
        return dw, db

    return run


@implements("batch_norm_dx")
def batch_norm_dx(
    target: Target, dy: Spec, x: Spec, *channels: Spec, eps: float
) -> Kernel | None:
    """Plan the gradient of x."""
    if not _alike(dy, x, *channels):
        return None
    return slope(target, x, eps, masked=False)


def slope(target: Target, x: Spec, eps: float, masked: bool) -> Kernel:
    """Plan the gradient of x, of dy, a mask if there is one, x, w, mean, var, dw and db."""
    call = _Call(target, x)
    function = build(gradient, target, call.rows, float(eps), masked)

    def run(dy: NDArray, *others: NDArray) -> NDArray:
        mask = [*map(call.last, others[:masked])]
        arrays = call.last(others[masked]), *map(plain, others[masked + 1 :])
        top, dx = call.last(dy), call.result()
        given = address(top), address(mask[0]) if mask else None, *map(address, arrays)
        function(*given, address(dx), call.room.address, *call.extent)
        return dx

    return run
