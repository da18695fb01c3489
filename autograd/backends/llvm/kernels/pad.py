"""Images copied into larger ones of zeros: each is zeroed in one sweep, and its pixels are copied
while it is in the cache."""

from __future__ import annotations

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from .sweep import sweep


def placed(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel that sets each image of y to zero and then copies the pixels of x into it:
    x, y, how many images, rows, pixels and channels x has, where in an image of y its first number
    goes, and how many numbers images, rows and pixels are apart, in x and in y."""
    sizes = ("images", "rows", "pixels", "channels", "first")
    apart = [f"{name}{axis}" for name in "xy" for axis in ("image", "row", "pixel")]
    k = KernelBuilder(target, dtype, ("x", "y"), (*sizes, *apart))
    x, y, images, rows, pixels, channels, first, *steps = k.arguments
    with k.loop(images) as n:
        source, to = k.at(x, (n, steps[0])), k.at(y, (n, steps[3]))

        def zero(index: Integer, some: Integer | None) -> None:
            k.store(k.vector(0.0), k.at(to, index), some)

        sweep(k, steps[3], zero)
        with k.loop(rows) as i, k.loop(pixels) as j:
            here = k.at(source, (i, steps[1]), (j, steps[2]))
            there = k.at(to, first, (i, steps[4]), (j, steps[5]))

            def move(index: Integer, some: Integer | None) -> None:
                k.store(k.load(k.at(here, index), some), k.at(there, index), some)

            sweep(k, channels, move, unroll=1)
    return k
