"""Images copied into larger ones of zeros: each is zeroed in one sweep, and its pixels are copied
while it is in the cache."""

from __future__ import annotations

from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from .sweep import sweep


def placed(target: Target, dtype: str, pixelwise: bool) -> KernelBuilder:
    """Return the kernel that sets each image of y to zero and then copies the pixels of x into it:
    x, y, how many images, rows, pixels and channels x has, where in y its first number goes, how
    many numbers y has, and how many numbers images, rows and pixels are apart, in x and in y. With
    `pixelwise`, the images of a pixel lie side by side: all of y is set to zero first."""
    sizes = ("images", "rows", "pixels", "channels", "first", "whole")
    apart = [f"{name}{axis}" for name in "xy" for axis in ("image", "row", "pixel")]
    k = KernelBuilder(target, dtype, ("x", "y"), (*sizes, *apart))
    x, y, images, rows, pixels, channels, first, whole, *steps = k.arguments

    def zero(to: Any, count: Integer) -> None:
        sweep(k, count, lambda index, some: k.store(k.vector(0.0), k.at(to, index), some))

    def copy(n: Integer, i: Integer, j: Integer) -> None:
        here = k.at(x, (n, steps[0]), (i, steps[1]), (j, steps[2]))
        there = k.at(y, first, (n, steps[3]), (i, steps[4]), (j, steps[5]))

        def move(index: Integer, some: Integer | None) -> None:
            k.store(k.load(k.at(here, index), some), k.at(there, index), some)

        sweep(k, channels, move, unroll=1)

    if pixelwise:
        zero(y, whole)
        with k.loop(rows) as i, k.loop(pixels) as j, k.loop(images) as n:
            copy(n, i, j)
    else:
        with k.loop(images) as n:
            zero(k.at(y, (n, steps[3])), steps[3])
            with k.loop(rows) as i, k.loop(pixels) as j:
                copy(n, i, j)
    return k
