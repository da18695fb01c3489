"""Pooling of images: plans of both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import is_narrow
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.border import Pair
from ..kernels.pool import backward, forward
from ..kernels.windows import Padding, PoolWindows, pooling, runs, strips
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, channels_last, plain
from .pixels import BACK, new_pixels

BYTE = np.dtype(np.uint8)
MOST = 1500  # taps that a kernel's code may have
PLACES = 256  # taps that a byte tells apart


def unrolled(sizes: Sequence[int]) -> int:
    """Return how many vectors of channels to unroll, given the taps that the code has along each
    axis; 0 where it has too many."""
    work = sizes[0] * sizes[1]
    return max(1, min(4, MOST // (4 * max(work, 1)))) if work <= MOST else 0


def forward_size(pool: PoolWindows) -> int:
    """Return `unrolled` for a kernel from x to y."""
    parts = [runs(a, not pool.largest) for a in (pool.vertical, pool.horizontal)]
    taps = [sum(len(r.taps) for r in axis) for axis in parts]
    if not pool.largest and taps[0] * taps[1] > MOST:
        # Large windows' sums are loops.
        taps = [len(axis) * 8 for axis in parts]
    return unrolled(taps)


def backward_size(pool: PoolWindows) -> int:
    """Return `unrolled` for a kernel from dy to dx."""
    parts = [strips(a, not pool.largest) for a in (pool.vertical, pool.horizontal)]
    return unrolled([sum(1 + len(p) for s in axis for p in s.pixels) for axis in parts])


class _Pool:
    """Runs a kernel of a pooling on images that lie one after the other, (N, H, W, C), or pixel by
    pixel, (H, W, N, C): then as one image of N C channels."""

    def __init__(
        self, target: Target, make: Any, pool: PoolWindows, images: int, unroll: int
    ) -> None:
        self.images, self.channels, self.target, self.make = images, pool.channels, target, make
        self.tiled = target.convolves and is_narrow(np.dtype(pool.dtype))
        self.pool, self.unroll = pool, unroll
        self.functions = {False: self._function(False)}

    def _function(self, by_pixels: bool) -> Any:
        many = self.images * self.channels if by_pixels else self.channels
        return build(self.make, self.target, self.pool._replace(channels=many), self.unroll)

    def lies_by_pixels(self, x: NDArray) -> bool:
        """Tell whether the images of a pixel lie side by side; where nothing tells, whether tiles
        would have it so."""
        if not x.transpose(BACK).flags.c_contiguous:
            return False
        return self.tiled or not x.transpose(0, 2, 3, 1).flags.c_contiguous

    def new(self, by_pixels: bool, size: Pair, dtype: np.dtype[Any]) -> NDArray:
        """Return an uninitialised array for images of a size."""
        shape = self.images, self.channels, *size
        return new_pixels(shape, dtype) if by_pixels else memory.images(*shape, dtype)

    def run(self, by_pixels: bool, *arrays: NDArray | None) -> None:
        """Run the kernel on arrays that lie so, or do after a copy."""
        addresses, kept = [], []
        for a in arrays:
            if a is not None:
                a = plain(a.transpose(BACK)) if by_pixels else channels_last(a)
                kept.append(a)
            addresses.append(None if a is None else address(a))
        if by_pixels not in self.functions:
            self.functions[by_pixels] = self._function(by_pixels)
        self.functions[by_pixels](*addresses, 1 if by_pixels else self.images)


@implements("max_pool2d", narrow=True)
def max_pool2d(
    target: Target, x: Spec, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Executable | None:
    """Plan the largest value of each window, and its tap."""
    windows = pooling(x, kernel, stride, padding, dilation)
    unroll = forward_size(windows)
    if not unroll or kernel[0] * kernel[1] > PLACES:
        return None
    pool, size = _Pool(target, forward, windows, x.shape[0], unroll), windows.size

    def run(x: NDArray) -> tuple[NDArray, NDArray]:
        so = pool.lies_by_pixels(x)
        y, argmax = pool.new(so, size, x.dtype), pool.new(so, size, BYTE)
        pool.run(so, x, y, argmax)
        return y, argmax

    return Executable(run, native=True)


@implements("max_pool2d_dx", narrow=True)
def max_pool2d_dx(
    target: Target, dy: Spec, argmax: Spec, *, size: Pair, kernel: Pair, stride: Pair,
    padding: Padding, dilation: Pair,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of the largest values."""
    windows = pooling(Spec((*dy.shape[:2], *size), dy.dtype), kernel, stride, padding, dilation)
    unroll = backward_size(windows)
    if not unroll or argmax.dtype != np.uint8:
        return None
    pool = _Pool(target, backward, windows, dy.shape[0], unroll)

    def run(dy: NDArray, argmax: NDArray) -> NDArray:
        so = pool.lies_by_pixels(argmax)
        dx = pool.new(so, size, dy.dtype)
        pool.run(so, dy, argmax, dx)
        return dx

    return Executable(run, native=True)


@implements("avg_pool2d", narrow=True)
def avg_pool2d(target: Target, x: Spec, **attributes: Any) -> Executable | None:
    """Plan the mean of each window."""
    windows = pooling(x, dilation=(1, 1), **attributes)
    unroll = forward_size(windows)
    if not unroll:
        return None
    pool = _Pool(target, forward, windows, x.shape[0], unroll)

    def run(x: NDArray) -> NDArray:
        so = pool.lies_by_pixels(x)
        y = pool.new(so, windows.size, x.dtype)
        pool.run(so, x, y, None)
        return y

    return Executable(run, native=True)


@implements("avg_pool2d_dx", narrow=True)
def avg_pool2d_dx(target: Target, dy: Spec, *, size: Pair, **attributes: Any) -> Executable | None:
    """Plan the gradient of means."""
    windows = pooling(Spec((*dy.shape[:2], *size), dy.dtype), dilation=(1, 1), **attributes)
    unroll = backward_size(windows)
    if not unroll:
        return None
    pool = _Pool(target, backward, windows, dy.shape[0], unroll)

    def run(dy: NDArray) -> NDArray:
        so = pool.lies_by_pixels(dy)
        dx = pool.new(so, size, dy.dtype)
        pool.run(so, dy, None, dx)
        return dx

    return Executable(run, native=True)
