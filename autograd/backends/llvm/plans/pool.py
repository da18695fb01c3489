"""Pooling of images: plans of both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.border import Pair
from ..kernels.pool import backward, forward
from ..kernels.windows import Padding, PoolWindows, pooling, runs, strips
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, channels_last

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


@implements("max_pool2d", narrow=True)
def max_pool2d(
    target: Target, x: Spec, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Executable | None:
    """Plan the largest value of each window, and its tap."""
    pool = pooling(x, kernel, stride, padding, dilation)
    unroll = forward_size(pool)
    if not unroll or kernel[0] * kernel[1] > PLACES:
        return None
    function = build(forward, target, pool, unroll)
    n, c, e, f = *x.shape[:2], pool.vertical.windows, pool.horizontal.windows

    def run(x: NDArray) -> tuple[NDArray, NDArray]:
        source = channels_last(x)
        y = memory.images(n, c, e, f, x.dtype)
        argmax = memory.images(n, c, e, f, BYTE)
        function(address(source), address(y), address(argmax), n)
        return y, argmax

    return Executable(run, native=True)


@implements("max_pool2d_dx", narrow=True)
def max_pool2d_dx(
    target: Target, dy: Spec, argmax: Spec, *, size: Pair, kernel: Pair, stride: Pair,
    padding: Padding, dilation: Pair,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of the largest values."""
    n, c = dy.shape[:2]
    pool = pooling(Spec((n, c, *size), dy.dtype), kernel, stride, padding, dilation)
    unroll = backward_size(pool)
    if not unroll or argmax.dtype != np.uint8:
        return None
    function = build(backward, target, pool, unroll)

    def run(dy: NDArray, argmax: NDArray) -> NDArray:
        tops, indices = channels_last(dy), channels_last(argmax)
        dx = memory.images(n, c, *size, dy.dtype)
        function(address(tops), address(indices), address(dx), n)
        return dx

    return Executable(run, native=True)


@implements("avg_pool2d", narrow=True)
def avg_pool2d(target: Target, x: Spec, **attributes: Any) -> Executable | None:
    """Plan the mean of each window."""
    pool = pooling(x, dilation=(1, 1), **attributes)
    unroll = forward_size(pool)
    if not unroll:
        return None
    function = build(forward, target, pool, unroll)
    n, c, e, f = *x.shape[:2], pool.vertical.windows, pool.horizontal.windows

    def run(x: NDArray) -> NDArray:
        source = channels_last(x)
        y = memory.images(n, c, e, f, x.dtype)
        function(address(source), address(y), None, n)
        return y

    return Executable(run, native=True)


@implements("avg_pool2d_dx", narrow=True)
def avg_pool2d_dx(target: Target, dy: Spec, *, size: Pair, **attributes: Any) -> Executable | None:
    """Plan the gradient of means."""
    n, c = dy.shape[:2]
    pool = pooling(Spec((n, c, *size), dy.dtype), dilation=(1, 1), **attributes)
    unroll = backward_size(pool)
    if not unroll:
        return None
    function = build(backward, target, pool, unroll)

    def run(dy: NDArray) -> NDArray:
        tops = channels_last(dy)
        dx = memory.images(n, c, *size, dy.dtype)
        function(address(tops), None, address(dx), n)
        return dx

    return Executable(run, native=True)
