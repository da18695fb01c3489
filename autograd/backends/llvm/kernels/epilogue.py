"""Epilogues: work on a kernel's results while they are in registers.

A scale for each channel, a residual, a ReLU or the mask of one; and the sums of batch norm, for
each image by itself, so that they depend neither on threads nor on the chunks in which images are
taken: in float64 from tile to tile. `merge_moments` and `merge_sums` add up the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, Term, pieces
from ..compiler.vectors import Vector

Pair = tuple[int, int]


class Epilogue(NamedTuple):
    """Steps that are applied to results, in this order; the last two sum up what is then
    written."""

    scale: bool = False  # times a number for each channel, plus another
    residual: bool = False  # plus an image
    relu: bool = False  # negative numbers become 0
    mask: bool = False  # 0 where another image is not above 0
    moments: bool = False  # sum up deviations from the first tile's mean, and their squares
    sums: bool = False  # sum up the numbers, and their products with x - mean

    @property
    def pointers(self) -> tuple[str, ...]:
        """Names of the arrays that a kernel is given for it, in their order."""
        names = {
            "scale": ("slope", "level"),
            "residual": ("residual",),
            "mask": ("mask",),
            "moments": ("moments",),
            "sums": ("seen", "mean", "sums"),
        }
        return tuple(n for step, some in names.items() if getattr(self, step) for n in some)


NOTHING = Epilogue()
IMAGES = ("residual", "mask", "seen")  # arrays of the result's shape
TOTALS = {"moments": 3, "sums": 2}  # float64 numbers for each channel of an image


class Tail:
    """Writes an epilogue into a kernel whose images have `each` numbers in `channels` channels.
    Numbers for each channel are of the type of arithmetic."""

    def __init__(
        self, k: KernelBuilder, epilogue: Epilogue, arrays: Sequence[Any], each: int, channels: int
    ) -> None:
        self.k, self.wide, self.d, self.epilogue = k, k.computed(), k.doubles(), epilogue
        self.each, self.channels = each, channels
        self.arrays = dict(zip(epilogue.pointers, arrays, strict=True))

    def ask(self, image: Integer, terms: Sequence[Term], offsets: Sequence[int]) -> None:
        """Prefetch what `finish` will read at some pixels of a tile."""
        for name in IMAGES:
            if name in self.arrays:
                at = self.k.at(self.arrays[name], (image, self.each), *terms)
                for offset in offsets:
                    self.k.prefetch(self.k.at(at, offset))

    def finish(
        self, values: dict[Pair, Vector], image: Integer, terms: Sequence[Term],
        offset: Callable[[Pair], int], channel: Integer, m: int, begins: Any,
    ) -> dict[Pair, Vector]:  # fmt: skip
        """Return the results at some pixels of a tile, m channels from `channel` on. `terms` say
        where the tile and the channel lie in the image, `offset` where a pixel lies in the tile.
        `begins` is a flag, set for the first tile of an image; None stands for never."""
        k, e = self.k, self.epilogue

        def there(name: str, pixel: Pair) -> Vector:
            at = k.at(self.arrays[name], (image, self.each), *terms, offset(pixel))
            return k.load(at, m)

        results = {}
        each = [self._of_channels(n, channel, m) for n in ("slope", "level") if e.scale]
        for pixel, value in values.items():
            if e.scale:
                value = k.fma(value, *each)
            if e.residual:
                value = value + there("residual", pixel)
            if e.relu:
                # Not the larger of it and 0, so that what is not a number stays.
                value = k.select(value < 0.0, 0.0, value)
            if e.mask:
                value = k.select(there("mask", pixel) <= 0.0, 0.0, value)
            results[pixel] = value
        if e.moments:
            self._moments([*results.values()], image, channel, m, begins)
        if e.sums:
            # Deviations, not x: a mean far from zero would cost the products their digits.
            mean = self._of_channels("mean", channel, m)
            off = [there("seen", pixel) - mean for pixel in results]
            products = [v * x for v, x in zip(results.values(), off, strict=True)]
            both = reduce(add, results.values()), reduce(add, products)
            self._add("sums", [*map(self.d.convert, both)], image, channel, m, begins)
        return results

    def _of_channels(self, name: str, channel: Integer, m: int) -> Vector:
        return self.wide.load(self.wide.at(self.arrays[name], channel), m)

    def _moments(
        self, values: list[Vector], image: Integer, channel: Integer, m: int, begins: Any
    ) -> None:
        """Add to what the image has summed up: a tile's own deviations from its mean, and that of
        its mean from the first tile's."""
        d = self.d
        middle = reduce(add, values) * (1 / len(values))
        off = [v - middle for v in values]
        square = d.convert(reduce(add, [x * x for x in off]))
        first = d.at(self.arrays["moments"], (image, 3 * self.channels), channel)
        # The first tile's mean is near the image's, so squares of deviations from it lose no digits
        # to a mean far from zero.
        shift, middle = d.load(first, m), d.convert(middle)
        if begins is not None:
            shift = d.select(begins, middle, shift)
            d.store(shift, first, m)
        apart = middle - shift
        whole = apart * float(len(values))
        both = whole, d.fma(whole, apart, square)
        self._add("moments", both, image, channel, m, begins, skip=1)

    def _add(
        self, name: str, values: Sequence[Vector], image: Integer, channel: Integer, m: int,
        begins: Any, skip: int = 0,
    ) -> None:  # fmt: skip
        d = self.d
        for row, value in enumerate(values, skip):
            rows = (image, TOTALS[name] * self.channels), row * self.channels
            to = d.at(self.arrays[name], *rows, channel)
            before = d.load(to, m)
            # A choice, not a product with 0: the sums lie in memory that was never set.
            if begins is not None:
                before = d.select(begins, 0.0, before)
            d.store(before + value, to, m)


def merge_moments(target: Target, dtype: str, channels: int, pixels: int) -> KernelBuilder:
    """Return the kernel of mean and variance of images of so many pixels, from what `moments` left:
    it, mean, var, number of images (Chan, Golub & LeVeque 1979)."""
    k = KernelBuilder(target, dtype, ("moments", "mean", "var"), ("count",))
    moments, mean, var, count = k.arguments
    d = k.doubles()
    images = d.number(count)
    for start, times, size in pieces(channels, k.lanes):
        with k.loop(times) as i:
            c = k.sum((i, size), start)

            def rows(n: Integer, c: Integer = c, size: int = size) -> list[Vector]:
                at = [d.at(moments, (n, 3 * channels), row * channels, c) for row in range(3)]
                return [d.load(a, size) for a in at]

            total, square = d.variable(), d.variable()
            with k.loop(count) as n:
                shift, off, _ = rows(n)
                total.set(total.get() + shift + off * (1 / pixels))
            middle = total.get() / images
            with k.loop(count) as n:
                shift, off, own = rows(n)
                apart = shift + off * (1 / pixels) - middle
                within = own - off * off * (1 / pixels)
                square.set(square.get() + within + apart * apart * float(pixels))
            spread = square.get() / (images * float(pixels))
            k.store(k.convert(middle), k.at(mean, c), size)
            k.store(k.convert(d.select(spread < 0.0, 0.0, spread)), k.at(var, c), size)
    return k


def merge_sums(target: Target, dtype: str, channels: int, eps: float) -> KernelBuilder:
    """Return the kernel of dw = the sum of dy (x - mean) / sqrt(var + eps) and db = that of dy,
    from what `sums` left: it, var, dw, db, number of images."""
    k = KernelBuilder(target, dtype, ("sums", "var", "dw", "db"), ("count",))
    sums, var, dw, db, count = k.arguments
    d = k.doubles()
    for start, times, size in pieces(channels, k.lanes):
        with k.loop(times) as i:
            c = k.sum((i, size), start)
            totals = [d.variable(), d.variable()]
            with k.loop(count) as n:
                for row, total in enumerate(totals):
                    at = d.at(sums, (n, 2 * channels), row * channels, c)
                    total.set(total.get() + d.load(at, size))
            root = d.sqrt(d.convert(k.load(k.at(var, c), size)) + eps)
            k.store(k.convert(totals[0].get()), k.at(db, c), size)
            k.store(k.convert(totals[1].get() / root), k.at(dw, c), size)
    return k


def scaling(target: Target, dtype: str, channels: int, eps: float) -> KernelBuilder:
    """Return the kernel of what a normalisation multiplies by and adds: w, b, mean, var, slope,
    level."""
    k = KernelBuilder(target, dtype, ("w", "b", "mean", "var", "slope", "level"))
    *inputs, slope, level = k.arguments
    d = k.doubles()
    for start, times, size in pieces(channels, k.lanes):
        with k.loop(times) as i:
            c = k.sum((i, size), start)
            w, b, mean, var = (d.convert(k.load(k.at(a, c), size)) for a in inputs)
            rate = w / d.sqrt(var + eps)
            k.store(k.convert(rate), k.at(slope, c), size)
            k.store(k.convert(b - mean * rate), k.at(level, c), size)
    return k
