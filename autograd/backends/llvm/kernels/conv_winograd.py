"""Winograd convolution of stride 1.

Loops, from the outside: chunks of images, blocks of tiles; for each block its tiles are transformed
to a plane, multiplied position by position (`multiply`: tiles x vectors of results in registers
while channels run), and transformed back. Both planes stay in half of the second-level cache:
`plans/conv_winograd.blocks` chooses the block. They lie as [position][tile][channel].

While a position is multiplied, a share of the memory that comes next is prefetched, which spreads
the traffic of the transforms over the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.vectors import Variable
from .border import Border, Pair, seen_columns
from .conv_direct import chunks
from .conv_winograd_exact import Filters, Pixels, checked, correlated
from .conv_winograd_transforms import (
    Grid,
    Matrix,
    both,
    evaluate,
    images,
    interpolate,
    price,
    values,
)
from .epilogue import NOTHING, Epilogue, Tail

LINE = 16  # float32 numbers of a cache line


class Winograd(NamedTuple):
    """y[n, e, f, :] = the sum over i, j < taps of x[n, e + top + i, f + left + j, :] w[i, j], in
    tiles of `outputs` x `outputs` results."""

    outputs: int  # rows and columns of results of a tile: the m of F(m, r)
    taps: int  # rows and columns of a filter: the r of F(m, r)
    channels: int  # of x
    results: int  # channels of y
    image: Pair  # (h, w) of x
    output: Pair  # (e, f) of y
    start: Pair  # (top, left) of the first window, perhaps before the image
    dtype: str = "float32"  # of x, y and the weights in memory; all else is float32

    @property
    def size(self) -> int:
        """Rows and columns of x that a tile sees."""
        return self.outputs + self.taps - 1

    @property
    def positions(self) -> int:
        """Numbers of a transformed tile."""
        return self.size**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an image, done directly."""
        return prod(self.output) * self.taps**2 * self.channels * self.results

    @property
    def grid(self) -> Pair:
        """Rows and columns of tiles; the last ones may reach beyond y."""
        e, f = self.output
        return -(-e // self.outputs), -(-f // self.outputs)

    @property
    def border(self) -> Border:
        """The part of x that the tiles see."""
        rows, columns = (n * self.outputs + self.taps - 1 for n in self.grid)
        return Border(self.image, self.start, (rows, columns), self.channels)

    @property
    def tops(self) -> Border:
        """The part of y that the tiles cover."""
        rows, columns = (n * self.outputs for n in self.grid)
        return Border(self.output, (0, 0), (rows, columns), self.results)

    @property
    def out(self) -> tuple[int, int, int]:
        """Numbers from one image, row and pixel of y to the next."""
        e, f = self.output
        return e * f * self.results, f * self.results, self.results


def multiplications(c: Winograd, images_: int, gradient: bool = False) -> int:
    """Return the multiplications of a convolution, or of the gradient of its weights: products and
    transforms, without those of tiles and channels that fill up blocks and vectors."""
    patches, outputs = images(c.size), values(c.size, c.outputs)
    weights = values(c.size, c.taps, scaled=True)
    x = c.channels * price(evaluate, patches, c.size)
    if gradient:
        y = c.results * price(evaluate, outputs, c.outputs)
        once = price(interpolate, weights, c.size)
    else:
        y = c.results * price(interpolate, outputs, c.size)
        once = price(evaluate, weights, c.taps)
    tiles = images_ * c.grid[0] * c.grid[1]
    products = c.positions * c.channels * c.results
    return tiles * (products + x + y) + c.channels * c.results * once


class BlockShape(NamedTuple):
    """How Winograd convolution is blocked."""

    images: int  # of a block
    rows: int  # of tiles of a block: all of them where there are several images
    tiles: int  # multiplied in registers (gradient of w: channels)
    vectors: int  # of results, in registers
    unroll: int  # steps of the sum in one turn of the loop


class Plane(NamedTuple):
    """Transformed data of a block: [position][tile][channel], channels padded to vectors.

    Positions are an odd number of cache lines apart: at a power of two they would all meet in one
    set of the cache, which would then hold few of them.
    """

    tiles: int  # of a block, padded
    width: int  # channels, padded to vectors

    @property
    def apart(self) -> int:
        """Numbers from one position to the next."""
        return LINE * (-(-self.tiles * self.width // LINE) | 1)


def padded(size: int, unit: int) -> int:
    """Return a size rounded up to whole units."""
    return -(-size // unit) * unit


def planes(target: Target, c: Winograd, b: BlockShape) -> tuple[Plane, Plane]:
    """Return how the transformed x and y of a block lie."""
    lanes = target.lanes("float32")
    tiles = padded(b.images * b.rows * c.grid[1], b.tiles)
    return Plane(tiles, padded(c.channels, lanes)), Plane(tiles, padded(c.results, lanes))


def factors(target: Target, c: Winograd) -> Plane:
    """Return how the transformed weights lie, or what is summed up for them: channels take the
    place of tiles, results that of channels."""
    return Plane(c.channels, padded(c.results, target.lanes("float32")))


class DirectInputs(NamedTuple):
    """What tiles are computed from where they are computed without transforms."""

    x: Any  # the images
    zeros: Any  # a row of zeros, read beyond them
    filters: Filters  # the weights as the caller has them


class TileBlock(NamedTuple):
    """A block of tiles: all columns of some rows of tiles, of some images."""

    k: KernelBuilder
    c: Winograd
    first: Integer  # image
    images: Integer  # how many
    number: Integer  # of the block among those of the same images
    top: Integer  # first row of tiles
    rows: Integer  # how many

    @property
    def wide(self) -> KernelBuilder:
        """The kernel on planes, which are float32."""
        return self.k.computed()

    def tiles(self) -> Iterator[tuple[Integer, Integer, Integer, Integer]]:
        """Loop over the tiles: yield the image, the row, the column and the number of each."""
        k, columns = self.k, self.c.grid[1]
        with k.loop(self.images) as i, k.loop(self.rows) as r, k.loop(columns) as t:
            yield i, k.sum(self.top, r), t, k.sum((k.sum((i, self.rows), r), columns), t)

    def spread(
        self, matrix: Matrix, x: Any, zeros: Any, border: Border, to: Any, plane: Plane
    ) -> None:
        """Transform patches of images, of which tiles see the part that the border says, to a
        plane. Beyond the images there are `zeros`, of which a row is given."""
        k, m, columns, pixel = self.k, self.c.outputs, self.c.grid[1], border.channels
        plain, (high, wide) = self.wide, border.image
        reach = range(len(matrix[0]))
        with k.loop(self.images) as i, k.loop(self.rows) as r:
            image = k.at(x, (k.sum(self.first, i), high * wide * pixel))
            top = k.sum(self.top, r)
            rows = [self._row(image, zeros, border, k.sum((top, m), a)) for a in reach]
            for first, count, inside in seen_columns(border, m, columns, len(reach)):
                with k.loop(count) as j:
                    t = k.sum(j, first)
                    tile = k.sum((k.sum((i, self.rows), r), columns), t)
                    for start, several, size in pieces(pixel, k.lanes):
                        with k.loop(several) as o:
                            at = (t, m * pixel), (o, size), start + border.start[1] * pixel
                            numbers = [
                                [
                                    k.load(k.at(row, *at, b * pixel), size)
                                    if b in inside
                                    else k.vector(0.0)
                                    for b in reach
                                ]
                                for row in rows
                            ]
                            transformed = both(k, evaluate, matrix, numbers)
                            into = plain.at(to, (tile, plane.width), (o, size), start)
                            for p, value in enumerate(v for line in transformed for v in line):
                                plain.store(value, plain.at(into, p * plane.apart))

    def _row(self, image: Any, zeros: Any, border: Border, row: Integer) -> Any:
        """Return the address of a row of what tiles see, counted from its first one."""
        k, (high, wide), top = self.k, border.image, border.start[0]
        position = k.sum(row, top)
        at = k.at(image, (position, wide * border.channels))
        if top >= 0 and top + border.size[0] <= high:
            return at
        # Without a sign, a row before the image is a large number: one comparison does for both
        # ends. The address beyond the image is computed, but never read.
        within = k.builder.icmp_unsigned("<", k.integer(position), k.integer(high))
        return k.builder.select(within, at, zeros)

    def collect(
        self, matrix: Matrix, source: Any, plane: Plane, direct: DirectInputs, biases: list[Any],
        y: Any, tail: Tail | None,
    ) -> None:  # fmt: skip
        """Transform a plane back to y, plus one bias or none, and what follows."""
        k, wide, c, m = self.k, self.wide, self.c, self.c.outputs
        image, row, pixel = c.out
        for i, r, t, tile in self.tiles():
            tile_source = wide.at(source, (tile, plane.width))
            pixels = self.pixels(direct, c.border, i, r, t)
            to = k.at(y, (k.sum(self.first, i), image), (r, m * row), (t, m * pixel))
            for start, count, size in pieces(c.results, k.lanes):
                with k.loop(count) as o:
                    products = plane_of(wide, c, plane, wide.at(tile_source, (o, size), start))
                    results = both(k, interpolate, matrix, products)
                    result = k.sum((o, size), start)
                    again = correlated(k, pixels, direct.filters, c.channels, result, size)
                    results = checked(k, matrix, results, size, again)
                    for bias in biases:
                        more = k.load(k.at(bias, (o, size), start), size)
                        results = [[value + more for value in line] for line in results]
                    into = k.at(to, (o, size), start)
                    self._store(results, into, i, r, t, result, size, tail)

    def pixels(
        self, direct: DirectInputs, border: Border, i: Integer, r: Integer, t: Integer
    ) -> Pixels:
        """Return what a tile sees of an image."""
        k, m, (high, wide), (top, left) = self.k, self.c.outputs, border.image, border.start
        image = k.at(direct.x, (k.sum(self.first, i), high * wide * border.channels))
        start = k.sum((r, m), top), k.sum((t, m), left)
        return Pixels(image, direct.zeros, border, start)

    def _store(
        self, results: Grid, to: Any, i: Integer, r: Integer, t: Integer, channel: Integer,
        size: int, tail: Tail | None,
    ) -> None:  # fmt: skip
        """Write a tile's results, those that exist, with what follows. All tiles have the first
        part of them, which begins an image's sums."""
        k, (_, row, pixel), m = self.k, self.c.out, self.c.outputs
        begins: Any = k.none(r, t) if tail is not None else None
        for (down, high), (right, wide) in product(self._parts(r, 0), self._parts(t, 1)):
            with ExitStack() as stack:
                for flag in (*high, *wide):
                    stack.enter_context(k.where(flag))
                part = {(a, b): results[a][b] for a in down for b in right}
                if tail is not None:
                    # Inside the flags: a part that does not exist must not enter the sums.
                    part = tail.finish(
                        part, k.sum(self.first, i), ((r, m * row), (t, m * pixel), channel),
                        lambda p: p[0] * row + p[1] * pixel, channel, size, begins,
                    )  # fmt: skip
                    begins = None
                for (a, b), value in part.items():
                    k.store(value, k.at(to, a * row + b * pixel), size)

    def _parts(self, index: Integer, axis: int) -> list[tuple[range, tuple[Any, ...]]]:
        """Return the rows (or columns) that all tiles have, and those that the last one lacks,
        with a flag: whether this is another tile."""
        k, m, last = self.k, self.c.outputs, self.c.grid[axis] - 1
        exist = self.c.output[axis] - last * m
        if exist == m:
            return [(range(m), ())]
        other = k.builder.icmp_signed("<", k.integer(index), k.integer(last))
        return [(range(exist), ()), (range(exist, m), (other,))]

    def fetch_x(self, position: Integer, x: Any, b: BlockShape, border: Border) -> None:
        """Ask for a share of the images that come next."""
        size = border.image[0] * border.image[1] * border.channels
        blocks = -(-self.c.grid[0] // b.rows)
        part = self.k.sum((self.number, self.c.positions), position)
        start = self.k.at(x, (self.first, size), b.images * size)
        self._fetch(part, blocks * self.c.positions, start, b.images * size, write=False)

    def fetch_y(self, position: Integer, y: Any, b: BlockShape) -> None:
        """Ask for a share of the results of this block."""
        image, row, _ = self.c.out
        size = min(b.images * image, b.images * b.rows * self.c.outputs * row)
        start = self.k.at(y, (self.first, image), (self.top, self.c.outputs * row))
        self._fetch(position, self.c.positions, start, size, write=True)

    def _fetch(self, part: Integer, parts: int, start: Any, size: int, write: bool) -> None:
        k, line = self.k, LINE * 4 // self.k.stored.itemsize
        lines = -(-size // (line * parts))
        for first, count, unrolled in pieces(lines, 8):
            with k.loop(count) as i:
                for j in range(unrolled):
                    # The last part may ask beyond the array, which a prefetch may.
                    at = k.at(start, (part, lines * line), (i, unrolled * line), (first + j) * line)
                    k.prefetch(at, write, near=2)


def plane_of(k: KernelBuilder, c: Winograd, plane: Plane, pointer: Any) -> Grid:
    """Return some numbers of a tile at all positions, the first of which is at an address."""
    return [
        [k.load(k.at(pointer, (a * c.size + b) * plane.apart)) for b in range(c.size)]
        for a in range(c.size)
    ]


def blocks_of(
    k: KernelBuilder, c: Winograd, b: BlockShape, first: Integer, images: Integer
) -> Iterator[TileBlock]:
    """Loop over the blocks of some images."""
    with k.loop(-(-c.grid[0] // b.rows)) as j:
        top = k.times(j, b.rows)
        rows = k.least(b.rows, k.builder.sub(k.integer(c.grid[0]), k.integer(top)))
        yield TileBlock(k, c, first, images, j, top, rows)


def convolve(
    target: Target, c: Winograd, b: BlockShape, turned: bool, biased: bool,
    epilogue: Epilogue = NOTHING,
) -> KernelBuilder:  # fmt: skip
    """Return the kernel of a convolution: x, the weights, or, `turned`, those of which it gives the
    gradient of x, transformed ones [position][channel][result] with results padded to vectors, y, a
    row of zeros, memory for both planes, the bias if there is one, what the epilogue takes, number
    of images."""
    names = ("x", "w", "u", "y", "zeros", "v", "p", *("bias",) * biased, *epilogue.pointers)
    k = KernelBuilder(target, c.dtype, names, ("count",))
    wide = k.computed()
    x, w, u, y, zeros, v, p, *more, count = k.arguments
    filters = Filters.of(w, (c.channels, c.results), c.taps, turned, turned)
    tail = Tail(k, epilogue, more[biased:], c.out[0], c.results) if any(epilogue) else None
    left, right = planes(target, c, b)
    for first, some in chunks(k, count, b.images):
        for block in blocks_of(k, c, b, first, some):
            block.spread(images(c.size), x, zeros, c.border, v, left)
            tiles = k.times(k.times(some, block.rows), c.grid[1])
            with k.loop(c.positions) as position:
                block.fetch_x(position, x, b, c.border)
                block.fetch_y(position, y, b)
                ends = (
                    wide.at(v, (position, left.apart)),
                    wide.at(u, (position, factors(target, c).apart)),
                    wide.at(p, (position, right.apart)),
                )
                multiply(wide, c, b, (left, right), ends, tiles)
            direct = DirectInputs(x, zeros, filters)
            block.collect(values(c.size, c.outputs), p, right, direct, more[:biased], y, tail)
    return k


def multiply(
    k: KernelBuilder, c: Winograd, b: BlockShape, both: tuple[Plane, Plane],
    at: tuple[Any, Any, Any], tiles: Integer,
) -> None:  # fmt: skip
    """Multiply one position of all tiles with its weights, a few tiles and vectors at a time; the
    last tiles may be none of the block's."""
    (v, u, p), (left, right) = at, both
    groups = k.builder.udiv(k.sum(tiles, b.tiles - 1), k.integer(b.tiles))
    for start, count, vectors in pieces(right.width // k.lanes, b.vectors):
        with k.loop(count) as o, k.loop(groups) as t:
            result = k.sum((o, vectors * k.lanes), start * k.lanes)
            x, w = k.at(v, (t, b.tiles * left.width)), k.at(u, result)
            sums = {(i, j): k.variable() for i in range(b.tiles) for j in range(vectors)}
            for first, several, size in pieces(c.channels, b.unroll):
                with k.loop(several) as step:
                    for channel in range(size):
                        index = k.sum((step, size), first + channel)
                        row = k.at(w, (index, right.width))
                        factors = [k.load(k.at(row, j * k.lanes)) for j in range(vectors)]
                        column = k.at(x, index)
                        for i in range(b.tiles):
                            number = k.broadcast(k.at(column, i * left.width))
                            add_products(k, sums, i, number, factors)
            to = k.at(p, (t, b.tiles * right.width), result)
            for (i, j), total in sums.items():
                k.store(total.get(), k.at(to, i * right.width + j * k.lanes))


def add_products(
    k: KernelBuilder, sums: dict[tuple[int, int], Variable], i: int, number: Any, factors: list[Any]
) -> None:
    """Add the products of one number and a vector of each factor to the i-th row of sums."""
    for j, factor in enumerate(factors):
        sums[i, j].set(k.fma(number, factor, sums[i, j].get()))
