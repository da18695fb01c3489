"""An array put into a larger one of zeros: padding, and the gradients of regular parts."""

from __future__ import annotations

from math import prod

import numpy as np

from ...array import NDArray, Spec
from . import memory
from .flat import sweep
from .jit import build
from .language import Integer, Kernel
from .layout import Moves, address
from .registry import Kernel as Run
from .registry import implements, native
from .targets import Target

LEAST = 1 << 15  # numbers of the result below which NumPy is as fast


def placed(target: Target, dtype: str) -> Kernel:
    """Return the kernel that sets each image of y to zero and then copies the pixels of x into it:
    x, y, how many images, rows, pixels and channels x has, where in an image of y its first number
    goes, and how many numbers images, rows and pixels are apart, in x and in y."""
    sizes = ("images", "rows", "pixels", "channels", "first")
    apart = [f"{name}{axis}" for name in "xy" for axis in ("image", "row", "pixel")]
    k = Kernel(target, dtype, ("x", "y"), (*sizes, *apart))
    x, y, images, rows, pixels, channels, first, *steps = k.arguments
    with k.loop(images) as n:
        source, to = k.at(x, (n, steps[0])), k.at(y, (n, steps[3]))

        def zero(place: Integer, some: Integer | None) -> None:
            k.store(k.vector(0.0), k.at(to, place), some)

        sweep(k, steps[3], zero)
        with k.loop(rows) as i, k.loop(pixels) as j:
            here = k.at(source, (i, steps[1]), (j, steps[2]))
            there = k.at(to, first, (i, steps[4]), (j, steps[5]))

            def move(place: Integer, some: Integer | None) -> None:
                k.store(k.load(k.at(here, place), some), k.at(there, place), some)

            sweep(k, channels, move, unroll=1)
    return k


Slices = tuple[tuple[int, int, int], ...]


def _plan(target: Target, x: Spec, shape: tuple[int, ...], slices: Slices) -> Run | None:
    """Plan images x (N, C, H, W) in zeros of a shape, at slices; None for what else there is."""
    if len(shape) != 4 or prod(shape) < LEAST or any(s[2] < 1 for s in slices):
        return None
    if x.shape[0] != shape[0] or slices[1][2] != 1:
        return None
    (n, c, h, w), size = x.shape, x.dtype.itemsize
    (_, channels, rows, pixels), (_, (top, *_), (up, _, down), (left, _, right)) = shape, slices
    first = (up * pixels + left) * channels + top
    apart = rows * pixels * channels, down * pixels * channels, right * channels
    function = build(placed, target, x.dtype.name)
    parts = tuple(slice(*s) for s in slices)

    def run(x: NDArray) -> NDArray:
        if c > 1 and x.strides[1] != size:  # in another layout
            Moves.aside += 1
            y = np.zeros_like(x, shape=shape)
            y[parts] = x
            return y
        y = memory.images(*shape, x.dtype)
        steps = [x.strides[i] // size for i in (0, 2, 3)]
        function(address(x), address(y), n, h, w, c, first, *steps, *apart)
        return y

    return native(run)


@implements("putslice")
def putslice(target: Target, x: Spec, *, slices: Slices, shape: tuple[int, ...]) -> Run | None:
    """Plan zeros with images as a regular part."""
    return _plan(target, x, shape, slices)


@implements("pad")
def pad(
    target: Target, x: Spec, *, widths: tuple[tuple[int, int], ...], value: float
) -> Run | None:
    """Plan images with a border of zeros."""
    if value != 0:
        return None
    shape = tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True))
    slices = tuple((a, a + n, 1) for n, (a, _) in zip(x.shape, widths, strict=True))
    return _plan(target, x, shape, slices)
