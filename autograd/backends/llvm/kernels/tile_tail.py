"""What follows a block of sums of a convolution by tiles: the scale of integers, the bias, an
epilogue, and writing the results. Sums of batch norm run in float32 along a row of results, in
registers, and in float64 from row to row.

Results are written a cache line at a time, which is 32 of bfloat16: of one image, or where there
are only 16, of two images that lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import llvmlite.ir as ir

from ..compiler.bfloat import BFLOATS
from ..compiler.language import I32, Integer, KernelBuilder
from ..compiler.tiles import ROWS
from ..compiler.vectors import Variable, Vector
from .epilogue import IMAGES, TOTALS, Epilogue
from .shorts import NUMBERS

LINE = 64  # bytes that are asked for at a time


def _same(value: int) -> Any:
    """Return a vector of 32 times a 16-bit integer."""
    return ir.Constant(NUMBERS, [value] * NUMBERS.count)


class TileTail:
    """Writes what follows, for a block of results of `images` images after the other."""

    def __init__(
        self, k: KernelBuilder, results: int, images: int, arrays: dict[str, Any],
        epilogue: Epilogue, begins: bool,
    ) -> None:  # fmt: skip
        self.k, self.wide, self.d = k, k.computed(), k.doubles()
        self.results, self.arrays, self.epilogue, self.begins = results, arrays, epilogue, begins
        names = [n for n in ("scale", "bias", "slope", "level", "mean") if n in arrays]
        self.known = {name: [k.variable() for _ in (0, 1)] for name in names}
        self.shifts = [k.variable() for _ in (0, 1)]
        self.totals = [[k.variable() for _ in (0, 1)] for _ in (0, 1)]  # first, second; halves
        self.channel: Integer = 0
        self.sizes: list[int] = []
        paired = results == ROWS and images % 2 == 0 and k.stored.itemsize == 2
        self.together = 1 + paired  # images that are written at a time

    def begin(self, o: Integer, size: int) -> None:
        """Begin a row of results, `size` channels in block o."""
        k = self.k
        self.channel = k.times(o, 2 * ROWS)
        self.sizes = [n for n in (min(size, ROWS), size - ROWS) if n > 0] * self.together
        for name, variables in self.known.items():
            read = k if name == "bias" else self.wide
            for half, n in enumerate(self.sizes):
                at = read.at(self.arrays[name], self.channel, self._place(half))
                variables[half].set(read.load(at, n))
        for total in self.totals:
            for variable in total:
                variable.set(k.vector(0.0))

    def _place(self, half: int) -> int:
        """Return where the channels of a half begin: those of a second image are the same."""
        return half * ROWS if self.together == 1 else 0

    def shift(self, e: Integer, sums: Any, images: int) -> None:
        """Choose what is subtracted before squares are summed up: a mean of some of the first
        results, near that of all of them, so that these lose no digits where it is far from
        zero."""
        if not self.epilogue.moments:
            return
        for half, n in enumerate(self.sizes):
            at = self._sums("moments", e, 0, half)
            if self.begins:
                first = half if self.together == 1 else 0
                middle = reduce(add, [self._sum(sums, i, first) for i in range(images)])
                middle = middle * (1 / images)
                if "bias" in self.known:
                    middle = middle + self.known["bias"][half].get()
                self.d.store(self.d.convert(middle), at, n)
            else:
                middle = self.k.convert(self.d.load(at, n))
            self.shifts[half].set(middle)

    def ask(self, y: Any, image: Integer, here: Integer) -> None:
        """Ask for what an image of a block at `here` reads and writes."""
        at = here, (image, self.results)
        for first in range(0, 2 * ROWS, LINE // self.k.stored.itemsize):
            self.k.prefetch(self.k.at(y, *at, first), write=True)
        for name in IMAGES:
            if name in self.arrays:
                self.k.prefetch(self.k.at(self.arrays[name], *at))

    def image(self, sums: Any, image: Integer, here: Integer) -> None:
        """Finish and write an image of a block at `here`, or two."""
        k, values = self.k, []
        whole = here, (image, self.results)
        masks = self._masks(whole) if self.epilogue.mask else ()
        for half, n in enumerate(self.sizes):
            at = *whole, half * ROWS
            values.append(self._follow(self._sum(sums, image, half), half, at, n, masks))
        to = k.at(self.arrays["y"], here, (image, self.results))
        if self.sizes == [ROWS, ROWS] and k.target.rounds and k.stored.itemsize == 2:
            name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"  # the second becomes the lower half
            whole = k._call(name, BFLOATS, [value.value for value in reversed(values)])
            k.builder.store(whole, to, align=2)
            return
        for half, (value, n) in enumerate(zip(values, self.sizes, strict=True)):
            k.store(value, k.at(to, half * ROWS), n)

    def _sum(self, sums: Any, image: Integer, half: int) -> Vector:
        apart = ROWS if self.together == 1 else 2 * ROWS
        at = self.wide.at(sums, (image, 2 * ROWS), half * apart)
        if "scale" not in self.known:
            return self.wide.load(at)
        whole = self.k.builder.load(at, align=LINE, typ=ir.VectorType(I32, ROWS))
        scale: Vector = self.known["scale"][half].get()
        return Vector(self.k, self.k.builder.sitofp(whole, self.k.wide)) * scale

    def _masks(self, at: tuple[Any, ...]) -> list[Any]:
        """Return for each half which results are cleared: where what the ReLU gave is not
        positive."""
        k, place = self.k, self.k.at(self.arrays["mask"], *at)
        if k.stored.itemsize != 2 or self.sizes != [ROWS, ROWS]:
            return [k.load(k.at(place, half * ROWS), n) <= 0.0 for half, n in enumerate(self.sizes)]
        # As integers, numbers that are not positive are 0 or have the sign, and are no NaN.
        bits = k.builder.load(place, align=2, typ=NUMBERS)
        least = k.builder.icmp_signed("<=", bits, _same(0))
        known = k.builder.icmp_unsigned("<=", bits, _same(0xFF80))
        both = k.builder.and_(least, known)
        lanes = [ir.Constant(ir.VectorType(I32, ROWS), [*range(i, i + ROWS)]) for i in (0, ROWS)]
        return [k.builder.shuffle_vector(both, both, half) for half in lanes]

    def _follow(
        self, value: Vector, half: int, at: tuple[Any, ...], n: int, masks: Sequence[Any]
    ) -> Vector:
        k, e, known = self.k, self.epilogue, self.known

        def there(name: str) -> Vector:
            return k.load(k.at(self.arrays[name], *at), n)

        if "bias" in known:
            value = value + known["bias"][half].get()
        if e.scale:
            value = k.fma(value, known["slope"][half].get(), known["level"][half].get())
        if e.residual:
            value = value + there("residual")
        if e.relu:
            # Not the larger of it and 0, so that what is not a number stays.
            value = k.select(value < 0.0, 0.0, value)
        if e.mask:
            value = k.select(masks[half], 0.0, value)
        if e.moments:
            off = value - self.shifts[half].get()
            self._add(0, half, off)
            self._add(1, half, off, off)
        if e.sums:
            # Deviations, not x: a mean far from zero would cost the products their digits.
            self._add(0, half, value)
            self._add(1, half, value, there("seen") - known["mean"][half].get())
        return value

    def _add(self, which: int, half: int, value: Vector, factor: Vector | float = 1.0) -> None:
        total: Variable = self.totals[which][half]
        whole = total.get()
        total.set(whole + value if isinstance(factor, float) else self.k.fma(value, factor, whole))

    def _sums(self, name: str, e: Integer, row: int, half: int) -> Any:
        """Return the address of float64 sums of a row of results."""
        rows = (e, TOTALS[name] * self.results), row * self.results
        return self.d.at(self.arrays[name], *rows, self.channel, self._place(half))

    def end(self, e: Integer) -> None:
        """End a row of results: write its sums, or add them."""
        for name, skip in (("moments", 1), ("sums", 0)):
            if not getattr(self.epilogue, name):
                continue
            for which, total in enumerate(self.totals):
                for half, n in enumerate(self.sizes[:: self.together]):
                    at = self._sums(name, e, which + skip, half)
                    value = self.d.convert(total[half].get())
                    if self.together == 2:
                        value = value + self.d.convert(total[1].get())
                    if not self.begins:
                        value = value + self.d.load(at, n)
                    self.d.store(value, at, n)
