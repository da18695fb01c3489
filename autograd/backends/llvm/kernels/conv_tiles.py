"""Convolution of images by tiles: [row][column][image][channel], in bfloat16 or in 8-bit integers.

A tile is one pixel of 16 images, in up to 32 channels, or 64 of integers. So a tap is another tile,
whatever the width of the images; what it sees beyond the border is left out, and no border is
copied. Two pixels side by side and two halves of 32 results make four sums, or four pixels where
there are at most 16 results: each product waits for the last one on its sums. Neighbours see much
of the same, which is read from the first-level cache; where there are too few, several tiles of
images at one pixel take their place.

What follows a block of sums (`TileTail`) is written between the products of the next one, which
leave the other units of the processor idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from math import prod
from typing import NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import I64, Integer, KernelBuilder, pieces
from ..compiler.tiles import BYTES, ROWS, TILE, TILES, Tiles
from .border import Pair
from .conv_direct import Correlation, Tap
from .epilogue import NOTHING, Epilogue
from .octets import octets
from .shorts import WIDTH
from .tile_tail import TileTail

BLOCK = 32  # results of a block
HALF = BLOCK // 2  # results of a tile of sums
PANEL = ROWS * BLOCK  # numbers of a tile of weights
Tall = tuple[int, ...]  # images in each of a block's tiles


def blocks(channels: int, size: int = BLOCK) -> int:
    """Return how many blocks hold so many channels."""
    return -(-channels // size)


def in_tiles(rows: int) -> Tall:
    """Return the rows of each tile that so many fill."""
    whole, rest = divmod(rows, ROWS)
    return (*(ROWS,) * whole, *(rest,) * (rest > 0))


def cut(k: KernelBuilder, size: int, tile: int) -> Iterator[tuple[Integer, int]]:
    """Loop over blocks: yield the number and the size of each."""
    for first, times, part in pieces(size, tile):
        with k.loop(times) as i:
            yield k.sum(i, first // tile), part


def packed_size(results: int, channels: int, deep: int, matrices: int) -> int:
    """Return how many numbers weights are as `tile_weights.pack` lays them out."""
    return blocks(results) * blocks(channels, deep) * matrices * 2 * PANEL


def depth(channels: int, width: int = WIDTH) -> int:
    """Return how many channels, of so many bytes, a tile has: the most of which there are whole
    tiles, in words of 32 bits; 0 where these would be too few."""
    most, word = BYTES // width, 4 // width
    fits = [d for d in range(word, most + 1, word) if channels % d == 0]
    return fits[-1] if fits and (2 * fits[-1] >= most or fits[-1] == channels) else 0


class TileBlocks(NamedTuple):
    """How a correlation goes through its results, which changes none of them."""

    near: int  # bytes of weights that stay in a second-level cache: more are read once for all rows
    seen: int  # bytes of images that a call reads: they stay there while all weights see them


class TileCorrelation(NamedTuple):
    """y[n, first + step (e, f), :] = the sum over taps of x[n, u e + row, v f + column, :]
    w[index], as `conv_direct.Correlation`, on images that lie [row][column][image][channel]."""

    images: int
    channels: int  # of x
    results: int  # channels of y
    indices: int  # matrices of the weights
    image: Pair  # (h, w) of x
    output: Pair  # (e, f), results along each axis
    taps: tuple[Tap, ...]  # (row, column, index)
    stride: Pair  # (u, v)
    whole: Pair  # (height, width) of y
    first: Pair = (0, 0)  # pixel of y
    step: Pair = (1, 1)  # from one result to the next
    kind: str = "bfloat16"  # of x: or int8, or uint8, with y in float32

    @classmethod
    def of(
        cls, c: Correlation, images: int, whole: Pair, first: Pair = (0, 0), step: Pair = (1, 1)
    ) -> TileCorrelation:
        """Return a correlation without groups, which writes to a y of this height and width."""
        own = c.channels, c.results, c.indices, c.image, c.output, c.taps, c.stride
        return cls(images, *own, whole, first, step)

    @property
    def is_integer(self) -> bool:
        """Whether x and w are integers, whose sums are scaled."""
        return self.kind != "bfloat16"

    @property
    def width(self) -> int:
        """Bytes of a number of x and w."""
        return 1 if self.is_integer else WIDTH

    @property
    def depth(self) -> int:
        """Channels of a tile."""
        return depth(self.channels, self.width)

    @property
    def weights(self) -> int:
        """Numbers of the packed weights."""
        return blocks(self.results) * self.apart[0]

    @property
    def apart(self) -> tuple[int, int, int, int]:
        """Numbers from the weights of 32 results, of a tile's channels, of a matrix and of 16
        results to the next: as `tile_weights.pack` lays them out, or `octets.pack`."""
        if self.is_integer:
            matrix = self.channels * HALF
            half = self.indices * matrix
            return 2 * half, self.depth * HALF, matrix, half
        block = self.indices * 2 * PANEL
        return self.channels // self.depth * block, block, 2 * PANEL, PANEL

    @property
    def length(self) -> int:
        """Taps in a kernel's code, in all runs of columns."""
        return sum(len(seen) for run in _runs(self, self.across) for seen in run.seen)

    @property
    def most(self) -> int:
        """Tiles of pixels and images in a block: the registers hold all sums."""
        return 2 if self.results > HALF else 4

    @property
    def across(self) -> int:
        """Pixels side by side in a block."""
        return 1 << (min(self.most, self.output[1]).bit_length() - 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those at borders included."""
        return prod(self.output) * len(self.taps) * self.channels * self.results * self.images

    def blocked(self, tiles: int) -> Iterator[tuple[Tall, int, int]]:
        """Yield blocks of images, so many tiles each: their rows, the first image, and how many
        such blocks follow one another."""
        most = tiles * ROWS
        first, whole = 0, self.images // most
        if whole:
            yield in_tiles(most), 0, whole
            first = whole * most
        rest = self.images - first
        if rest:
            yield in_tiles(rest), first, 1


class _Run(NamedTuple):
    """Blocks of pixels side by side that see the same taps."""

    first: int  # column
    times: int
    seen: tuple[tuple[Tap, ...], ...]  # by each of a block's pixels


def _runs(c: TileCorrelation, across: int) -> list[_Run]:
    """Cut a row into blocks of so many pixels, and a narrower one if pixels are left."""

    def seen(f: int) -> tuple[Tap, ...]:
        return tuple(t for t in c.taps if 0 <= f * c.stride[1] + t[1] < c.image[1])

    runs = []
    for start, many, wide in pieces(c.output[1], across):
        first = range(start, start + many * wide, wide)
        for taps, group in groupby(first, key=lambda f: tuple(map(seen, range(f, f + wide)))):
            columns = [*group]
            runs.append(_Run(columns[0], len(columns), taps))
    return runs


def correlate(
    target: Target, c: TileCorrelation, across: int, tall: Tall, outer: bool, biased: bool = False,
    epilogue: Epilogue = NOTHING, begins: bool = True,
) -> KernelBuilder:  # fmt: skip
    """Return the kernel of a correlation: x, w, y, the scale of integers' sums, the bias if there
    is one, the epilogue's arrays, the first row of results, number of rows, and of blocks of
    images. A block is `across` pixels wide, of images in tiles as `tall` says. `outer`: a block of
    results goes through all rows before the next. `begins`: the kernel is the first to sum up a row
    of results, else it goes on."""
    names = ("x", "w", "y", *("scale",) * c.is_integer, *("bias",) * biased, *epilogue.pointers)
    results = "float32" if c.is_integer else c.kind
    k = KernelBuilder(target, results, names, ("first", "rows", "count"))
    *_, start, rows, _ = k.arguments
    writer = _Writer(k, c, across, tall, biased, epilogue, begins)
    if outer:
        for o, size in cut(k, c.results, BLOCK):
            with k.loop(rows) as e:
                writer.row(o, k.sum(start, e), size)
    else:
        with k.loop(rows) as e:
            for o, size in cut(k, c.results, BLOCK):
                writer.row(o, k.sum(start, e), size)
    writer.tiles.release()
    return k


class _Writer:
    """Writes a correlation, a row of results at a time."""

    def __init__(
        self, k: KernelBuilder, c: TileCorrelation, across: int, tall: Tall, biased: bool,
        epilogue: Epilogue, begins: bool,
    ) -> None:  # fmt: skip
        self.k, self.c, self.across, self.tall = k, c, across, tall
        self.halves, self.height = min(2, blocks(c.results, HALF)), sum(tall)
        self.narrow = octets(k) if c.is_integer else k  # of x and w
        self.depth = c.depth
        self.x, self.w, self.y, *_, self.count = k.arguments
        every = tall * across
        sums = len(every) * self.halves
        spare = min(len(every), TILES - sums - self.halves)
        line = self.depth * c.width
        if len({*tall}) == 1:
            self.factors = [sums + m % spare for m in range(len(every))]
            factors = [(tall[0], line)] * spare
        else:
            # The last tile of images has fewer rows than the others, and a factor of its own.
            self.factors = [sums + m % (spare - 1) for m in range(len(tall) - 1)]
            self.factors = [*self.factors, sums + spare - 1] * across
            factors = [(high, line) for high in (*tall[: spare - 1], tall[-1])]
        panel = line // 4, BYTES
        wide = [(high, BYTES) for high in every for _ in range(self.halves)]
        self.tiles = Tiles(k, [*wide, *factors, *[panel] * self.halves], c.kind)
        self.first_panel = sums + spare
        self.apart = c.step[1] * c.images * c.results  # numbers of y from a pixel to the next
        self.sums = k.room(len(every) * 2 * TILE)  # [pixel][image][half][result]
        self.before = k.slot()  # where the last block lies in y
        arrays = dict(zip(k.pointers, k.arguments, strict=False))
        self.tail = TileTail(k, c.results, self.height, arrays, epilogue, begins)

    def row(self, o: Integer, e: Integer, size: int) -> None:
        """Write a block of `size` results along a row."""
        k, wide = self.k, 0
        several = k.builder.icmp_unsigned(">", self.count, k.integer(1))
        self.tail.begin(o, size)
        for run in _runs(self.c, self.across):
            before, wide = wide, len(run.seen)
            if before != wide:  # the first block of this width
                self._block(o, e, run, 0, 0, size, before)
                if not before:
                    self.tail.shift(e, self.sums, self.tall[0])
                with k.where(several), k.loop(k.builder.sub(self.count, k.integer(1))) as n:
                    self._block(o, e, run, 0, k.sum(n, 1), size, wide)
                run = run._replace(first=run.first + wide, times=run.times - 1)
            if run.times:
                with k.loop(run.times) as i, k.loop(self.count) as n:
                    self._block(o, e, run, i, n, size, wide)
        last = k.builder.load(self.before, typ=I64)
        for pixel in range(wide):
            with k.loop(self.height // self.tail.together) as i:
                self._finish(pixel, k.times(i, self.tail.together), last)
        self.tail.end(e)

    def _finish(self, pixel: int, image: Integer, last: Integer) -> None:
        """Finish and write an image of one of the pixels of a block at `last`."""
        sums = self.k.computed().at(self.sums, pixel * len(self.tall) * ROWS * BLOCK)
        self.tail.image(sums, image, self.k.sum(last, pixel * self.apart))

    def _block(
        self, o: Integer, e: Integer, run: _Run, i: Integer, n: Integer, size: int, before: int,
    ) -> None:  # fmt: skip
        """Sum up block i of a run, and write the one before it, which is `before` pixels wide; 0
        where there is none."""
        k, c, height, wide = self.k, self.c, self.height, len(run.seen)
        halves = min(self.halves, blocks(size, HALF))
        f = k.sum((i, wide), run.first)
        row = k.sum((e, c.step[0]), c.first[0])
        column = k.sum((f, c.step[1]), c.first[1])
        pixel = k.sum((row, c.whole[1]), column)
        here = k.sum((pixel, c.images * c.results), (n, height * c.results), (o, BLOCK))
        last = k.builder.load(self.before, typ=I64)

        def between(first: Integer, images: int) -> list[Callable[[], None]]:
            """Return what is done between products: images are finished, and asked for."""
            todo: list[Callable[[], None]] = []
            for p in range(max(wide, before)):
                for image in (k.sum(first, j) for j in range(0, images, self.tail.together)):
                    if p < before:
                        todo.append(partial(self._finish, p, image, last))
                    if p < wide:
                        place = k.sum(here, (p, self.apart))
                        todo.append(partial(self.tail.ask, self.y, image, place))
            return todo

        for m in range(wide * len(self.tall)):
            for half in range(halves):
                self.tiles.zero(m * self.halves + half)
        many = c.channels // self.depth
        step = self.tail.together
        sizes = (d for d in range(step, height + 1, step) if height % d == 0)
        each = next(d for d in sizes if d * many >= height)
        parts = [(0, height // each, each), (height // each, many - height // each, 0)]
        for first, times, images in parts:
            if times:
                with k.loop(times) as b:
                    todo = between(k.times(b, images), images)
                    self._products(o, e, f, n, k.sum(b, first), run, halves, todo)
        for m in range(wide * len(self.tall)):
            for half in range(halves):
                to = k.computed().at(self.sums, (m * 2 * TILE + half * BYTES) // 4)
                self.tiles.store(m * self.halves + half, to, 2 * BYTES)
        k.builder.store(k.integer(here), self.before)

    def _products(
        self, o: Integer, e: Integer, f: Integer, n: Integer, b: Integer, run: _Run, halves: int,
        todo: list[Callable[[], None]],
    ) -> None:  # fmt: skip
        """Add the products of a block of channels, with other work in between where that need not
        wait for a branch."""
        k, c = self.k, self.c
        seen = [(tap, p) for p, taps in enumerate(run.seen) for tap in taps]
        # What is read for a tap is read again for the next one of its neighbour.
        seen.sort(key=lambda s: (s[0][0], c.taps.index(s[0]), s[1]))
        rows = [(row, [*group]) for row, group in groupby(seen, key=lambda s: s[0][0])]
        free = next((row for row, _ in rows if self._always(row)), None)
        if free is None:
            _spend(todo, 1)
        for row, some in rows:
            at = k.integer(k.sum((e, c.stride[0]), row))
            if self._always(row):
                self._taps(o, at, f, n, b, some, halves, todo if row == free else [])
                continue
            with k.where(k.builder.icmp_unsigned("<", at, k.integer(c.image[0]))):
                self._taps(o, at, f, n, b, some, halves, [])

    def _always(self, row: int) -> bool:
        """Tell whether all rows of results see a row of taps."""
        return row >= 0 and (self.c.output[0] - 1) * self.c.stride[0] + row < self.c.image[0]

    def _taps(
        self, o: Integer, row: Integer, f: Integer, n: Integer, b: Integer,
        seen: list[tuple[Tap, int]], halves: int, todo: list[Callable[[], None]],
    ) -> None:  # fmt: skip
        """Add the products of the taps of a row, each with the pixels that see it."""
        k, c, tiles = self.narrow, self.c, self.tiles
        pixel, (block, deep, matrix, half_block) = c.images * c.channels, c.apart
        images = len(self.tall)
        steps = len(seen) * images
        weights = k.at(self.w, (o, block), (b, deep))
        place = (row, c.image[1] * pixel), (f, c.stride[1] * pixel), (b, self.depth)
        line = k.at(self.x, *place, (n, self.height * c.channels))
        for tap, pixels in groupby(seen, key=lambda s: s[0]):
            for half in range(halves):
                at = k.at(weights, tap[2] * matrix + half * half_block)
                tiles.operand(self.first_panel + half, at)
            for m in (p * images + i for _, p in pixels for i in range(images)):
                column, i = divmod(m, images)
                place = (tap[1] + column * c.stride[1]) * pixel + i * ROWS * c.channels
                tiles.operand(self.factors[m], k.at(line, place), c.channels * c.width)
                panels = range(self.first_panel, self.first_panel + halves)
                tiles.dots(
                    range(m * self.halves, m * self.halves + halves), self.factors[m], panels
                )
                _spend(todo, steps)
                steps -= 1


def _spend(todo: list[Callable[[], None]], turns: int) -> None:
    """Do what is this turn's share of the work."""
    for _ in range(blocks(len(todo), turns)):
        todo.pop(0)()
