"""Batch normalisation: plans for images, and for any array (N, C, ..)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import computed_in
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.batch_norm import gradient, gradient_sums, normalise, statistics
from ..kernels.batch_norm_passes import arranged
from ..kernels.epilogue import NOTHING, Epilogue
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import ChannelsLast, address, plain
from ..runtime.parallel import ByImages, Scratch, Work

WORK = 8  # MACs in whose time a number is read and written


class NormCall(ChannelsLast):
    """What the calls of a plan share: the sizes, and memory for sums and coefficients."""

    def __init__(self, target: Target, x: Spec) -> None:
        super().__init__(x)
        self.rows, self.extent = arranged(target, x)
        padded = -(-self.rows.width // target.lanes(x.dtype)) * target.lanes(x.dtype)
        self.room = Scratch(padded * (16 + 4 * computed_in(x.dtype).itemsize), "uint8")

    def some(self, images: int) -> tuple[int, int, int]:
        """Return the extent of so many images."""
        pixels = images * prod(self.shape[2:])
        rows, tail = divmod(pixels, self.rows.side)
        blocks, rest = divmod(rows, self.rows.block)
        return blocks, rest, tail * self.rows.channels

    @property
    def each_image(self) -> int:
        """Bytes of an image."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def each(self) -> tuple[NDArray, int, int]:
        """Return two arrays for a number per channel, in one, and their addresses."""
        pair = np.empty((2, self.rows.channels), computed_in(self.dtype))
        start = address(pair)
        return pair, start, start + self.rows.channels * pair.itemsize


def _fit(images: Sequence[Spec], channels: Sequence[Spec]) -> bool:
    """Tell whether images are of one type, and what is per channel of the type of sums."""
    dtype = images[0].dtype
    wide = computed_in(dtype)
    return all(s.dtype == dtype for s in images) and all(s.dtype == wide for s in channels)


@implements("batch_norm", narrow=True)
def batch_norm(target: Target, x: Spec, w: Spec, b: Spec, *, eps: float) -> Executable | None:
    """Plan a normalisation with the batch's own statistics."""
    if not _fit((x,), (w, b)):
        return None
    call = NormCall(target, x)
    function = build(normalise, target, call.rows, float(eps), False)

    def run(x: NDArray, w: NDArray, b: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        call.like(x)
        source, w, b = call.last(x), plain(w), plain(b)
        y, ((mean, var), *pair) = call.result(), call.each()
        arrays = address(source), None, address(w), address(b), *pair, address(y)
        function(*arrays, call.room.address(0), *call.extent)
        return y, mean, var

    return Executable(run, native=True)


def moments(target: Target, x: Spec) -> Executable:
    """Plan mean and variance of x."""
    call = NormCall(target, x)
    function = build(statistics, target, call.rows)

    def run(x: NDArray, *_: NDArray) -> tuple[NDArray, NDArray]:
        call.like(x)
        source = call.last(x)
        (mean, var), *pair = call.each()
        function(address(source), *pair, call.room.address(0), *call.extent)
        return mean, var

    return Executable(run, native=True)


@implements("batch_norm_eval", narrow=True)
def batch_norm_eval(
    target: Target, x: Spec, w: Spec, b: Spec, mean: Spec, var: Spec, *, eps: float
) -> Executable | None:
    """Plan a normalisation with given statistics."""
    if not _fit((x,), (w, b, mean, var)):
        return None
    return normalising(target, x, eps, NOTHING)


def normalising(target: Target, x: Spec, eps: float, epilogue: Epilogue) -> ByImages:
    """Plan a normalisation with given statistics and an epilogue: of x, w, b, mean, var and the
    residual, if there is one."""
    call = NormCall(target, x)
    function = build(normalise, target, call.rows, float(eps), True, epilogue)
    step = call.each_image

    def begin(x: NDArray, *others: NDArray) -> tuple[NDArray, Work]:
        call.like(x)
        source, y = call.last(x), call.result()
        channels, rest = [*map(plain, others[:4])], [*map(call.last, others[4:])]

        def work(first: int, count: int, worker: int) -> None:
            off = first * step
            read = address(source) + off, address(rest[0]) + off if rest else None
            ends = *map(address, channels), address(y) + off
            function(*read, *ends, call.room.address(worker), *call.some(count))

        return y, work

    return ByImages(x.shape[0], WORK * x.size, begin)


@implements("batch_norm_sums", narrow=True)
def batch_norm_sums(
    target: Target, dy: Spec, x: Spec, mean: Spec, var: Spec, *, eps: float
) -> Executable | None:
    """Plan the gradients of w and b."""
    if not _fit((dy, x), (mean, var)):
        return None
    return sums(target, x, eps, masked=False)


def sums(target: Target, x: Spec, eps: float, masked: bool) -> Executable:
    """Plan the gradients of w and b: of dy, a mask if there is one, x, mean and var."""
    call = NormCall(target, x)
    function = build(gradient_sums, target, call.rows, float(eps), masked)

    def run(dy: NDArray, *others: NDArray) -> tuple[NDArray, NDArray]:
        call.like(others[masked])
        mask = [*map(call.last, others[:masked])]
        x, mean, var = others[masked:]
        arrays = call.last(x), plain(mean), plain(var)
        top = call.last(dy)
        (dw, db), *pair = call.each()
        inputs = address(top), address(mask[0]) if mask else None, *map(address, arrays)
        function(*inputs, *pair, call.room.address(0), *call.extent)
        return dw, db

    return Executable(run, native=True)


@implements("batch_norm_dx", narrow=True)
def batch_norm_dx(
    target: Target, dy: Spec, x: Spec, *channels: Spec, eps: float
) -> Executable | None:
    """Plan the gradient of x."""
    if not _fit((dy, x), channels):
        return None
    return slope(target, x, eps, masked=False)


def slope(target: Target, x: Spec, eps: float, masked: bool) -> ByImages:
    """Plan the gradient of x: of dy, a mask if there is one, x, w, mean, var, dw and db."""
    call = NormCall(target, x)
    function = build(gradient, target, call.rows, float(eps), masked)
    step, pixels = call.each_image, x.size // x.shape[1]

    def begin(dy: NDArray, *others: NDArray) -> tuple[NDArray, Work]:
        call.like(others[masked])
        mask = [*map(call.last, others[:masked])]
        source, channels = call.last(others[masked]), [*map(plain, others[masked + 1 :])]
        top, dx = call.last(dy), call.result()

        def work(first: int, count: int, worker: int) -> None:
            off = first * step
            read = address(top) + off, address(mask[0]) + off if mask else None
            ends = address(source) + off, *map(address, channels), address(dx) + off
            function(*read, *ends, call.room.address(worker), *call.some(count), pixels)

        return dx, work

    return ByImages(x.shape[0], WORK * x.size, begin)
