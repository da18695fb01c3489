"""Layer, group and RMS norm: plans for rows, and for images whose channels come last.

Groups that lie in one piece are rows. Where channels come last, they do not: there the kernels of
batch norm give sums for each channel of an image, which are few and are put together by NumPy, and
write the result."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.batch_norm import gradient, gradient_sums, normalise, statistics
from ..kernels.rows import BLOCK
from ..kernels.standardize import slope, standardized
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import ChannelsLast, address, plain
from ..runtime.parallel import ByImages, Work, over_images
from .batch_norm import NormCall

WORK = 4  # MACs in whose time a number is read and written
CACHED = 1 << 19  # bytes of images between the passes over them


@implements("standardize")
def standardize(
    target: Target, x: Spec, *, groups: int, eps: float, centered: bool
) -> Executable | None:
    """Plan y and rate."""
    in_rows = _rows(target, x, groups, eps, centered)
    if len(x.shape) == 2:
        return in_rows
    if not centered or not x.size:
        return None
    in_images = _Images(target, x, groups)

    def run(x: NDArray) -> tuple[NDArray, NDArray]:
        return in_rows.run(x) if x.flags.c_contiguous else in_images.standardized(x, eps)

    return Executable(run)


def _rows(target: Target, x: Spec, groups: int, eps: float, centered: bool) -> ByImages:
    rows = x.shape[0] * groups
    size = x.size // max(rows, 1)
    function = build(standardized, target, x.dtype.name, eps, centered, size > BLOCK)
    step = size * x.dtype.itemsize

    def begin(x: NDArray) -> tuple[tuple[NDArray, NDArray], Work]:
        source, y = plain(x), memory.empty(x.shape, x.dtype)
        rates = memory.empty((x.shape[0], groups), x.dtype)

        def work(first: int, count: int, worker: int) -> None:
            row = address(rates) + first * rates.itemsize
            function(*[address(a) + first * step for a in (source, y)], row, count, size)

        return (y, rates), work

    return ByImages(rows, WORK * x.size, begin)


@implements("standardize_dx")
def standardize_dx(
    target: Target, dy: Spec, y: Spec, rate: Spec, *, groups: int, centered: bool
) -> Executable | None:
    """Plan the gradient of x."""
    if not dy.dtype == y.dtype == rate.dtype:
        return None
    in_rows = _rows_dx(target, y, groups, centered)
    if len(y.shape) == 2:
        return in_rows
    if not centered or not y.size:
        return None
    in_images = _Images(target, y, groups)

    def run(dy: NDArray, y: NDArray, rate: NDArray) -> NDArray:
        return (in_rows.run if y.flags.c_contiguous else in_images.slope)(dy, y, rate)

    return Executable(run)


def _rows_dx(target: Target, y: Spec, groups: int, centered: bool) -> ByImages:
    rows = y.shape[0] * groups
    size = y.size // max(rows, 1)
    function = build(slope, target, y.dtype.name, centered, size > BLOCK)
    step = size * y.dtype.itemsize

    def begin(dy: NDArray, y: NDArray, rate: NDArray) -> tuple[NDArray, Work]:
        dx, top, value, rates = memory.empty(y.shape, y.dtype), plain(dy), plain(y), plain(rate)

        def work(first: int, count: int, worker: int) -> None:
            row = address(rates) + first * rates.itemsize
            reads = [address(a) + first * step for a in (top, value)]
            function(*reads, row, address(dx) + first * step, count, size)

        return dx, work

    return ByImages(rows, WORK * y.size, begin)


class _Images:
    """Calls over images (N, C, ..) whose channels come last in memory, a few images after another,
    which stay in the cache between two passes."""

    def __init__(self, target: Target, x: Spec, groups: int) -> None:
        self.dtype, self.groups, self.images = x.dtype, groups, x.shape[0]
        self.layout = ChannelsLast(x)
        one = NormCall(target, Spec((1, *x.shape[1:]), x.dtype))  # of an image
        self.rows, self.extent = one.rows, one.extent
        self.room, self.step = one.room, one.each_image
        self.few = max(1, CACHED // self.step)
        self.moments = build(statistics, target, one.rows)
        self.write = build(normalise, target, one.rows, 0.0, True)
        self.sums = build(gradient_sums, target, one.rows, 0.0, False)
        self.write_dx = build(gradient, target, one.rows, 0.0, False)
        channels = one.rows.channels
        self.zeros, self.ones = np.zeros(channels, x.dtype), np.ones(channels, x.dtype)

    def parts(self, first: int, count: int) -> Iterator[tuple[range, NDArray]]:
        """Yield a few of `count` images after another, with room for two numbers per channel."""
        for start in range(first, first + count, self.few):
            some = range(start, min(start + self.few, first + count))
            yield some, np.empty((2, len(some), self.rows.channels), self.dtype)

    def mean(self, each: NDArray) -> NDArray:
        """Return the mean over each group's channels (images, groups, 1) of numbers (images, C)."""
        parts = each.astype(np.float64).reshape(len(each), self.groups, -1)
        return np.asarray(parts.mean(2, keepdims=True))

    def spread(self, each: NDArray) -> NDArray:
        """Return numbers (images, groups, 1) for each channel, (images, C), in the images' type."""
        wide = np.broadcast_to(each, (*each.shape[:2], self.rows.channels // self.groups))
        return wide.reshape(len(each), -1).astype(self.dtype)

    def standardized(self, x: NDArray, eps: float) -> tuple[NDArray, NDArray]:
        """Return y, and rate (N, groups)."""
        source, y = self.layout.last(x), self.layout.result()
        rates = np.empty((self.images, self.groups), self.dtype)

        def work(first: int, count: int, worker: int) -> None:
            room = self.room.address(worker)
            for some, numbers in self.parts(first, count):
                for i, (mean, var) in zip(some, numbers.swapaxes(0, 1), strict=True):
                    ends = address(mean), address(var), room
                    self.moments(address(source) + i * self.step, *ends, *self.extent)
                means, variances = numbers
                middle = self.mean(means)
                apart = means.reshape(len(some), self.groups, -1) - middle
                variance = self.mean(variances) + np.square(apart).mean(2, keepdims=True)
                rate = 1 / np.sqrt(variance + eps)
                rates[some.start : some.stop] = rate[..., 0]
                for i, m, r in zip(some, self.spread(middle), self.spread(rate), strict=True):
                    channels = address(r), address(self.zeros), address(m), address(self.ones)
                    at = i * self.step
                    self.write(
                        address(source) + at, None, *channels, address(y) + at, room, *self.extent
                    )

        over_images(WORK * x.size, self.images, work)
        return y, rates

    def slope(self, dy: NDArray, y: NDArray, rate: NDArray) -> NDArray:
        """Return dx."""
        top, value = self.layout.last(dy), self.layout.last(y)
        dx, pixels = self.layout.result(), prod(y.shape[2:])

        def work(first: int, count: int, worker: int) -> None:
            room = self.room.address(worker)
            known = address(self.zeros), address(self.ones)
            for some, numbers in self.parts(first, count):
                for i, (tilt, level) in zip(some, numbers.swapaxes(0, 1), strict=True):
                    at = i * self.step
                    ends = address(tilt), address(level), room
                    self.sums(
                        address(top) + at, None, address(value) + at, *known, *ends, *self.extent
                    )
                means = [self.spread(self.mean(sums) / pixels) for sums in numbers]
                rates = self.spread(rate[some.start : some.stop, :, None])
                for i, r, tilt, level in zip(some, rates, *means, strict=True):
                    at = i * self.step
                    channels = address(r), *known, address(tilt), address(level)
                    self.write_dx(
                        address(top) + at, None, address(value) + at, *channels,
                        address(dx) + at, room, *self.extent, 1,
                    )  # fmt: skip

        over_images(WORK * y.size, self.images, work)
        return dx
