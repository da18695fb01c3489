"""The passes of batch normalisation over arrays whose channels come last in memory.

Some pixels side by side make a row of whole vectors, so that each lane belongs to one channel. A
pass goes through blocks of rows; within a block it takes a few vectors of a row at a time, from the
first row to the last, with their sums or coefficients in registers: a quarter of the registers, as
a vector takes four (see `Passes.most`). Sums run in the arrays' type over a block of rows, and in
float64 from block to block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import gcd
from typing import Any, NamedTuple

from ....array import Spec
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.vectors import Vector

BLOCK = 1 << 15  # bytes of rows whose sums run in the arrays' type
GUESS = 4  # rows whose mean is subtracted from those of a block
AHEAD = 1 << 12  # bytes between what is read and what is asked for, across the border of a page
CHAINS = 4  # vectors of a row at least, so that sums do not wait for one another
Formula = Callable[[Sequence[Vector], Sequence[Vector]], Vector]


class NormRows(NamedTuple):
    """How an array is cut into rows."""

    dtype: str
    channels: int  # of a pixel
    side: int  # pixels of a row, so many that they fill whole vectors
    block: int  # rows whose sums run in the arrays' type

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.side * self.channels


class Extent(NamedTuple):
    """How many rows there are; kernels take it as arguments."""

    blocks: int  # whole blocks of rows
    rest: int  # rows after them
    tail: int  # numbers of a last, shorter row


def arranged(target: Target, x: Spec) -> tuple[NormRows, Extent]:
    """Return rows for an array (N, C, ..). Where channels fill many vectors, or there are few
    pixels, a row is one pixel, and its last vector is masked."""
    channels, lanes, size = x.shape[1], target.lanes(x.dtype), x.dtype.itemsize
    pixels = x.size // channels
    least = lanes // gcd(channels, lanes)
    side = least * -(-CHAINS * lanes // (least * channels))
    if channels >= 8 * lanes or pixels < least:
        side = 1
    elif pixels < side:
        side = least
    block = max(16, min(128, BLOCK // (side * channels * size)))
    rows, tail = divmod(pixels, side)
    return (
        NormRows(x.dtype.name, channels, side, block),
        Extent(*divmod(rows, block), tail * channels),
    )


def tiles(k: KernelBuilder, width: int, most: int) -> Iterator[tuple[Integer, list[int]]]:
    """Loop over the vectors of a row, up to `most` at a time: yield where they begin and how many
    numbers each has."""
    whole, rest = divmod(width, k.lanes)
    for first, count, size in pieces(whole, most):
        with k.loop(count) as i:
            yield k.sum((i, size * k.lanes), first * k.lanes), [k.lanes] * size
    if rest:
        yield whole * k.lanes, [rest]


class Passes:
    """The passes of a kernel over its rows. `room` is memory for two rows of float64 sums and
    some rows of coefficients."""

    def __init__(
        self, k: KernelBuilder, rows: NormRows, room: Any, extent: Sequence[Integer]
    ) -> None:
        self.k, self.d, self.rows, self.room = k, k.doubles(), rows, room
        self.c = k.computed()  # coefficients, and what there is one of for each channel
        self.blocks, self.rest, self.tail = extent
        self.whole = k.sum((self.blocks, rows.block), self.rest)
        # A vector takes four: two sums, what is subtracted, and the numbers that are read.
        self.most = k.target.registers // 4
        self.padded = -(-rows.width // k.lanes) * k.lanes

    def total(self, which: int, *offset: Any) -> Any:
        """Return the address of a float64 sum."""
        return self.d.at(self.room, which * self.padded, *offset)

    def coefficient(self, which: int, *offset: Any) -> Any:
        """Return the address of a coefficient; they lie behind the sums."""
        behind = 2 * self.padded * (8 // self.c.dtype.itemsize)
        return self.c.at(self.room, behind + which * self.padded, *offset)

    def clear(self) -> None:
        """Set the sums to zero."""
        with self.k.loop(2 * self.padded // self.k.lanes) as i:
            self.d.store(self.d.vector(0.0), self.d.at(self.room, (i, self.k.lanes)))

    def over(self, body: Callable[[Integer, Integer], None], backwards: bool = False) -> None:
        """Write down a body (first row, number of rows) for all blocks; `backwards`, what the pass
        before has left in the cache comes first."""
        k, block = self.k, self.rows.block

        def after() -> None:
            with k.where(k.positive(self.rest)):
                body(k.times(self.blocks, block), self.rest)

        if backwards:
            after()
        with k.where(k.positive(self.blocks)), k.loop(self.blocks) as i:
            last = k.builder.sub(self.blocks, k.sum(i, 1)) if backwards else i
            body(k.times(last, block), block)
        if not backwards:
            after()

    def shorter(self) -> Iterator[tuple[Integer, Integer]]:
        """Loop over the vectors of the last, shorter row: yield where each begins and how many
        numbers are left, which may be none."""
        if self.rows.side == 1:
            return
        with self.k.where(self.k.positive(self.tail)):
            for offset, _ in tiles(self.k, self.rows.width, 1):
                yield offset, self.k.builder.sub(self.tail, self.k.integer(offset))

    def ask(self, at: Any, arrays: Sequence[Any]) -> None:
        """Ask for numbers some way ahead: one core alone waits for memory more than it reads."""
        for a in arrays:
            self.k.prefetch(self.k.at(a, *at, AHEAD // self.k.stored.itemsize))

    def add(self, which: int, offset: Any, value: Vector) -> None:
        """Add float64 numbers to the sums."""
        to = self.total(which, *offset)
        self.d.store(self.d.load(to) + value, to)

    # Statistics.

    def moments(self, x: Any) -> None:
        """Sum up deviations, and their squares, from the first row's numbers. A block sums those
        from the mean of its own first rows, so that a mean far from zero costs no accuracy."""
        self.clear()
        self.over(lambda first, count: self._block_moments(x, first, count))
        d, k = self.d, self.k
        for offset, left in self.shorter():
            value = k.load(k.at(x, (self.whole, self.rows.width), offset), left)
            off = d.convert(value) - d.convert(k.load(k.at(x, offset)))
            off = d.select(k.mask(left), off, 0.0)
            self.add(0, (offset,), off)
            self.add(1, (offset,), off * off)

    def _block_moments(self, x: Any, first: Integer, count: Integer) -> None:
        k, d, width = self.k, self.d, self.rows.width
        for offset, counts in tiles(k, width, self.most):
            start = k.at(x, (first, width), offset)
            shifts = [self._guess(k.at(start, j * k.lanes), m, count) for j, m in enumerate(counts)]
            sums = [(k.variable(), k.variable()) for _ in counts]
            with k.loop(count) as row:
                for j, m in enumerate(counts):
                    self.ask(((row, width), j * k.lanes), (start,))
                    off = k.load(k.at(start, (row, width), j * k.lanes), m) - shifts[j]
                    sums[j][0].set(sums[j][0].get() + off)
                    sums[j][1].set(k.fma(off, off, sums[j][1].get()))
            for j, m in enumerate(counts):
                origin = k.load(k.at(x, offset, j * k.lanes), m)
                step = d.convert(shifts[j]) - d.convert(origin)
                off, square = (d.convert(s.get()) for s in sums[j])
                apart = d.number(count) * step
                self.add(0, (offset, j * k.lanes), off + apart)
                self.add(1, (offset, j * k.lanes), square + step * (off + off + apart))

    def _guess(self, x: Any, m: int, count: Integer) -> Vector:
        """Return what the mean of a block may be: that of its first rows."""
        # Whole blocks have a number that is known here; the last one may be a single row.
        k, rows = self.k, GUESS if isinstance(count, int) else 1
        total = k.load(x, m)
        for i in range(1, rows):
            total = total + k.load(k.at(x, i * self.rows.width), m)
        return total * (1 / rows)

    def statistics(self, x: Any, c: Integer, m: int) -> tuple[Vector, Vector]:
        """Return mean and variance of some channels: each pixel of a row has its own, which are
        put together as Chan, Golub & LeVeque (1979) do."""
        k, d, channels = self.k, self.d, self.rows.channels
        origin = d.convert(k.load(k.at(x, c), m))

        def part(p: Integer) -> tuple[Vector, Vector, Vector]:
            begins = k.builder.icmp_signed("<", k.integer(k.times(p, channels)), self.tail)
            longer = k.builder.zext(begins, k.integer(0).type)
            size = d.number(k.sum(self.whole, longer))
            off = d.load(self.total(0, (p, channels), c), m)
            step = d.convert(k.load(k.at(x, (p, channels), c), m)) - origin
            return size, off, step + off / size

        total, square = d.variable(), d.variable()
        with k.loop(self.rows.side) as p:
            size, _, off_mean = part(p)
            total.set(d.fma(size, off_mean, total.get()))
        share = self.share()
        middle = total.get() * share
        with k.loop(self.rows.side) as p:
            size, off, off_mean = part(p)
            within = d.load(self.total(1, (p, channels), c), m) - off * off / size
            apart = off_mean - middle
            square.set(square.get() + within + size * apart * apart)
        var = square.get() * share
        # Rounding may leave less than nothing where all numbers are alike.
        return origin + middle, d.select(var < 0.0, 0.0, var)

    def share(self) -> Vector:
        """Return 1 / the number of pixels."""
        tail = self.k.builder.udiv(self.tail, self.k.integer(self.rows.channels))
        return 1.0 / self.d.number(self.k.sum((self.whole, self.rows.side), tail))

    # Sums of two arrays, and passes that write.

    def products(self, x: Any, dy: Any, y: Any, mean: Any) -> None:
        """Sum up dy (x - mean) and dy; with y, of dy where y > 0."""
        self.clear()
        self.tile(0, mean)
        self.over(lambda first, count: self._block_products(x, dy, y, first, count))
        k, d = self.k, self.d
        for offset, left in self.shorter():
            at = ((self.whole, self.rows.width), offset)
            off = k.load(k.at(x, *at), left) - self.c.load(self.coefficient(0, offset))
            top = self._top(dy, y, at, left)
            self.add(0, (offset,), d.convert(off * top))
            self.add(1, (offset,), d.convert(top))

    def _top(self, dy: Any, y: Any, at: Any, m: Integer) -> Vector:
        """Return some numbers of dy; with y, zeros where that is not positive."""
        k = self.k
        top = k.load(k.at(dy, *at), m)
        return top if y is None else k.select(k.load(k.at(y, *at), m) <= 0.0, 0.0, top)

    def _block_products(self, x: Any, dy: Any, y: Any, first: Integer, count: Integer) -> None:
        k, width = self.k, self.rows.width
        for offset, counts in tiles(k, width, self.most):
            offsets = [j * k.lanes for j in range(len(counts))]
            middles = [self.c.load(self.coefficient(0, offset, j)) for j in offsets]
            sums = [(k.variable(), k.variable()) for _ in counts]
            with k.loop(count) as i:
                row = k.sum(first, i)
                for j, m in enumerate(counts):
                    at = ((row, width), offset, offsets[j])
                    self.ask(at, (x, dy) if y is None else (x, dy, y))
                    off, top = k.load(k.at(x, *at), m) - middles[j], self._top(dy, y, at, m)
                    sums[j][0].set(k.fma(off, top, sums[j][0].get()))
                    sums[j][1].set(sums[j][1].get() + top)
            for j, pair in zip(offsets, sums, strict=True):
                for which, value in enumerate(pair):
                    self.add(which, (offset, j), self.d.convert(value.get()))

    def folded(self, which: int, c: Integer, m: int) -> Vector:
        """Return the sum of some channels over the pixels of a row."""
        total = self.d.variable()
        with self.k.loop(self.rows.side) as p:
            at = self.total(which, (p, self.rows.channels), c)
            total.set(total.get() + self.d.load(at, m))
        return total.get()

    def set(self, which: int, c: Integer, m: int, value: Vector) -> None:
        """Write coefficients of some channels, for each pixel of a row."""
        narrow = self.c.convert(value)
        with self.k.loop(self.rows.side) as p:
            self.c.store(narrow, self.coefficient(which, (p, self.rows.channels), c), m)

    def tile(self, which: int, values: Any) -> None:
        """Write coefficients of all channels, from an array."""
        for c, (m,) in tiles(self.k, self.rows.channels, 1):
            self.set(which, c, m, self.c.load(self.c.at(values, c), m))

    def put(self, value: Vector, to: Any, c: Integer, m: int) -> None:
        """Write a float64 number for each of some channels to an array."""
        self.c.store(self.c.convert(value), self.c.at(to, c), m)

    def doubled(self, values: Any, c: Integer, m: int) -> Vector:
        """Return some numbers of an array in float64."""
        return self.d.convert(self.c.load(self.c.at(values, c), m))

    def write(self, y: Any, reads: Sequence[Any], coefficients: int, formula: Formula) -> None:
        """Write y = formula(numbers of `reads`, coefficients), row by row."""
        k, width = self.k, self.rows.width

        def body(first: Integer, count: Integer) -> None:
            for offset, counts in tiles(k, width, self.most):
                offsets = [j * k.lanes for j in range(len(counts))]
                known = [
                    [self.c.load(self.coefficient(i, offset, j)) for i in range(coefficients)]
                    for j in offsets
                ]
                with k.loop(count) as i:
                    row = k.sum(first, i)
                    for j, m in enumerate(counts):
                        at = ((row, width), offset, offsets[j])
                        self.ask(at, reads)
                        values = [k.load(k.at(a, *at), m) for a in reads]
                        k.store(formula(values, known[j]), k.at(y, *at), m)

        for offset, left in self.shorter():
            at = ((self.whole, width), offset)
            factors = [self.c.load(self.coefficient(i, offset)) for i in range(coefficients)]
            value = formula([k.load(k.at(a, *at), left) for a in reads], factors)
            k.store(value, k.at(y, *at), left)
        self.over(body, backwards=True)
