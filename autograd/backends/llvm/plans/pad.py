"""An array put into a larger one of zeros: padding, and the gradients of regular parts."""

from __future__ import annotations

from math import prod

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.pad import placed
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, layout_stats
from .pixels import new_pixels

LEAST = 1 << 15  # numbers of the result below which NumPy is as fast


Slices = tuple[tuple[int, int, int], ...]


def _plan(target: Target, x: Spec, shape: tuple[int, ...], slices: Slices) -> Executable | None:
    """Plan images x (N, C, H, W) in zeros of a shape, at slices; None for what else there is."""
    if len(shape) != 4 or prod(shape) < LEAST or any(s[2] < 1 for s in slices):
        return None
    if x.shape[0] != shape[0] or slices[1][2] != 1:
        return None
    (n, c, h, w), size = x.shape, x.dtype.itemsize
    _, (top, *_), (up, _, down), (left, _, right) = slices
    functions = {False: build(placed, target, x.dtype.name, False)}
    parts = tuple(slice(*s) for s in slices)

    def run(x: NDArray) -> NDArray:
        if c > 1 and x.strides[1] != size:  # in another layout
            layout_stats.fallbacks += 1
            y = np.zeros_like(x, shape=shape)
            y[parts] = x
            return y
        pixelwise = n > 1 and x.strides[0] < min(x.strides[2:])
        y = new_pixels(shape, x.dtype) if pixelwise else memory.images(*shape, x.dtype)
        steps = [x.strides[i] // size for i in (0, 2, 3)]
        image, one, row, pixel = (step // size for step in y.strides)
        first = up * row + left * pixel + top * one
        apart = image, down * row, right * pixel
        # A row that lies side by side in both is copied as one pixel.
        row_of = (1, w * c) if steps[2] == c == right * pixel else (w, c)
        sizes = n, h, *row_of, first, y.size
        if pixelwise not in functions:
            functions[pixelwise] = build(placed, target, x.dtype.name, pixelwise)
        functions[pixelwise](address(x), address(y), *sizes, *steps, *apart)
        return y

    return Executable(run, native=True)


@implements("putslice", narrow=True)
def putslice(
    target: Target, x: Spec, *, slices: Slices, shape: tuple[int, ...]
) -> Executable | None:
    """Plan zeros with images as a regular part."""
    return _plan(target, x, shape, slices)


@implements("pad", narrow=True)
def pad(
    target: Target, x: Spec, *, widths: tuple[tuple[int, int], ...], value: float
) -> Executable | None:
    """Plan images with a border of zeros."""
    if value != 0:
        return None
    shape = tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True))
    slices = tuple((a, a + n, 1) for n, (a, _) in zip(x.shape, widths, strict=True))
    return _plan(target, x, shape, slices)
