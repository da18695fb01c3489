"""Convolution of bfloat16 images by tiles, and how images and weights lie for it.

Blocked images are [image / 16][row][channel / 32][column][16 images][32 channels]: a tile is one
pixel of 16 images in 32 channels, side by side in memory. So a tap is another tile, whatever the
width of the image; what it sees beyond the border is left out, and no border is copied.

Two pixels and two halves of 32 results make four sums. Weights lie in the order in which they are
read: [result / 32][matrix][channel / 32][half][16 pairs of channels][16 results][2].
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import I16, Integer, KernelBuilder
from ..compiler.tiles import ROWS, TILE, Tiles
from .border import Pair
from .conv_direct import Correlation, Tap

BLOCK = 32  # channels of a tile
HALF = BLOCK // 2  # results of a sum
PIXEL = ROWS * BLOCK  # numbers of a tile
NEAR = 3 << 19  # bytes of weights that stay in a second-level cache


def blocks(channels: int, size: int = BLOCK) -> int:
    """Return how many blocks hold so many channels; the last is filled with zeros."""
    return -(-channels // size)


class TileCorrelation(NamedTuple):
    """y[n, first + step (e, f), :] = the sum over taps of x[n, u e + row, v f + column, :]
    w[index], as `conv_direct.Correlation`, on blocked images."""

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

    @classmethod
    def of(
        cls, c: Correlation, whole: Pair, first: Pair = (0, 0), step: Pair = (1, 1)
    ) -> TileCorrelation:
        """Return a correlation without groups, which writes to a y of this height and width."""
        own = c.channels, c.results, c.indices, c.image, c.output, c.taps, c.stride
        return cls(*own, whole, first, step)

    @property
    def weights(self) -> int:
        """Numbers of the weights, as they lie for it."""
        return blocks(self.results) * self.indices * blocks(self.channels) * 2 * PIXEL


class _Strip(NamedTuple):
    """Pairs of pixels side by side that see the same taps: from the column `first` on, `times`
    pairs, or single pixels where `seen` has one entry. `seen` has the taps of each pixel."""

    first: int
    times: int
    seen: tuple[tuple[Tap, ...], ...]


def _strips(c: TileCorrelation) -> Iterator[_Strip]:
    def seen(f: int) -> tuple[Tap, ...]:
        return tuple(t for t in c.taps if 0 <= f * c.stride[1] + t[1] < c.image[1])

    width = c.output[1]
    pairs = [(f, tuple(seen(p) for p in (f, f + 1) if p < width)) for f in range(0, width, 2)]
    for taps, group in groupby(pairs, key=lambda pair: pair[1]):
        several = [*group]
        yield _Strip(several[0][0], len(several), taps)


def correlate(target: Target, c: TileCorrelation, biased: bool) -> KernelBuilder:
    """Return the kernel of a correlation: x, w, y, the bias (float32, whole blocks of results) if
    there is one, number of blocks of 16 images."""
    k = KernelBuilder(target, "bfloat16", ("x", "w", "y", *("bias",) * biased), ("count",))
    *_, count = k.arguments
    writer = _Writer(k, c, biased)
    if 2 * c.weights > NEAR:
        with k.loop(blocks(c.results)) as o, k.loop(count) as n, k.loop(c.output[0]) as e:
            writer.row(n, o, e)
    else:
        with k.loop(count) as n, k.loop(c.output[0]) as e, k.loop(blocks(c.results)) as o:
            writer.row(n, o, e)
    writer.tiles.release()
    return k


class _Writer:
    """Writes a correlation row by row."""

    def __init__(self, k: KernelBuilder, c: TileCorrelation, biased: bool) -> None:
        self.k, self.c, self.biased = k, c, biased
        self.tiles = Tiles(k)
        self.sums = k.room(4 * TILE)  # float32: [pixel][half][image][result]
        self.halves = 2 if c.results > HALF else 1
        self.strips = [*_strips(c)]

    def row(self, n: Integer, o: Integer, e: Integer) -> None:
        """Write a row of y in a block of images and results."""
        k = self.k
        for strip in self.strips:
            with k.loop(strip.times) as i:
                f = k.sum((i, 2), strip.first)
                self._add(n, o, e, f, strip)
                self._write(n, o, e, f, len(strip.seen))

    def _add(self, n: Integer, o: Integer, e: Integer, f: Integer, strip: _Strip) -> None:
        """Sum up a pair of pixels in tiles 2 m + half."""
        k, c, tiles = self.k, self.c, self.tiles
        for m in range(len(strip.seen)):
            for half in range(self.halves):
                tiles.zero(2 * m + half)
        for row in sorted({tap[0] for tap in c.taps}):
            taps = [t for t in c.taps if t[0] == row and any(t in seen for seen in strip.seen)]
            if not taps:
                continue
            at = k.integer(k.sum((e, c.stride[0]), row))
            inside = k.builder.icmp_unsigned("<", at, k.integer(c.image[0]))
            with k.where(inside), k.loop(blocks(c.channels)) as b:
                for tap in taps:
                    self._tap(n, o, at, f, b, tap, strip)

    def _tap(
        self, n: Integer, o: Integer, row: Integer, f: Integer, b: Integer, tap: Tap, strip: _Strip
    ) -> None:
        k, c, tiles = self.k, self.c, self.tiles
        x, w, *_ = k.arguments
        many = blocks(c.channels)
        for half in range(self.halves):
            place = (o, c.indices * many * 2 * PIXEL), (b, 2 * PIXEL)
            tiles.load(6 + half, k.at(w, *place, (tap[2] * many * 2 + half) * PIXEL))
        for m, seen in enumerate(strip.seen):
            if tap not in seen:
                continue
            line = c.image[1] * PIXEL  # of a row, in a block of channels
            at = (n, c.image[0] * many * line), (row, many * line), (b, line)
            column = (f, c.stride[1] * PIXEL), (m * c.stride[1] + tap[1]) * PIXEL
            tiles.load(4 + m, k.at(x, *at, *column))
            for half in range(self.halves):
                tiles.dot(2 * m + half, 4 + m, 6 + half)

    def _write(self, n: Integer, o: Integer, e: Integer, f: Integer, pixels: int) -> None:
        """Round the sums, and write them to y; results beyond the last are zeros."""
        k, c, wide = self.k, self.c, self.k.computed()
        y, many = k.arguments[2], blocks(c.results)
        for m in range(pixels):
            for half in range(self.halves):
                place = (2 * m + half) * TILE // 4
                self.tiles.store(2 * m + half, wide.at(self.sums, place))
        line = c.whole[1] * PIXEL
        row = k.sum((e, c.step[0]), c.first[0])
        at = (n, c.whole[0] * many * line), (row, many * line), (o, line)
        column = (f, c.step[1] * PIXEL), c.first[1] * PIXEL
        bias = [k.vector(0.0)] * 2
        if self.biased:
            place = k.arguments[3]
            bias = [wide.load(wide.at(place, (o, BLOCK), half * HALF)) for half in (0, 1)]
        for m in range(pixels):
            to = k.at(y, *at, *column, m * c.step[1] * PIXEL)
            with k.loop(ROWS) as image:
                for half in (0, 1):
                    value = k.vector(0.0)
                    if half < self.halves:
                        place = wide.at(self.sums, (image, ROWS), (2 * m + half) * TILE // 4)
                        value = wide.load(place) + bias[half]
                    k.store(value, k.at(to, (image, BLOCK), half * HALF))


def block_images(target: Target, channels: int, pixels: Pair, back: bool) -> KernelBuilder:
    """Return the kernel that lays images (h, w) that are channels-last out in blocks, or `back`:
    channels-last, blocked, number of images. Images and channels beyond the last are zeros in
    blocks."""
    k = KernelBuilder(target, "bfloat16", ("plain", "blocked"), ("count",))
    plain, blocked, count = k.arguments
    (h, w), many = pixels, blocks(channels)
    parts = k.builder.udiv(k.sum(count, ROWS - 1), k.integer(ROWS))
    with k.loop(parts) as n, k.loop(ROWS) as image, k.loop(h) as row:
        number = k.sum((n, ROWS), image)
        exists = k.builder.icmp_signed("<", k.integer(number), count)
        for b in range(many):
            source = k.at(plain, (number, h * w * channels), (row, w * channels), b * BLOCK)
            at = (n, h * many * w * PIXEL), (row, many * w * PIXEL), (image, BLOCK)
            to = k.at(blocked, *at, b * w * PIXEL)
            _move(k, source, to, w, channels, min(BLOCK, channels - b * BLOCK), exists, back)
    return k


def _move(
    k: KernelBuilder, plain: Any, blocked: Any, width: int, channels: int, some: int, exists: Any,
    back: bool,
) -> None:  # fmt: skip
    """Move a row of one image in one block of channels, of which there are `some`."""
    with k.where(exists), k.loop(width) as column:
        for half in (0, 1):
            left = min(HALF, some - half * HALF)
            ends = (
                k.at(plain, (column, channels), half * HALF),
                k.at(blocked, (column, PIXEL), half * HALF),
            )
            if back:
                if left > 0:
                    k.store(k.load(ends[1]), ends[0], left)
            else:
                k.store(k.load(ends[0], left) if left > 0 else k.vector(0.0), ends[1])
    if not back:
        with k.where(k.builder.not_(exists)), k.loop(width) as column:
            for half in (0, 1):
                k.store(k.vector(0.0), k.at(blocked, (column, PIXEL), half * HALF))


def pack_weights(
    target: Target, results: int, channels: int, indices: int, turned: bool
) -> KernelBuilder:
    """Return the kernel that lays weights out for `correlate`: w [result][channel][index], or
    `turned` [channel][result][index], and what it writes, which must be zeros before."""
    k = KernelBuilder(target, "bfloat16", ("w", "packed"))
    w, packed = k.arguments
    many, outer, inner = blocks(channels), results, channels
    if turned:
        outer, inner = channels, results
    with k.loop(outer) as a, k.loop(inner) as b:
        o, c = (b, a) if turned else (a, b)
        source = k.at(w, (a, inner * indices), (b, indices))
        o, o_in = split(k, o, BLOCK)
        half, o_in = split(k, o_in, HALF)
        c, c_in = split(k, c, BLOCK)
        pair, odd = split(k, c_in, 2)
        at = (o, indices * many * 2 * PIXEL), (c, 2 * PIXEL), (half, PIXEL)
        to = k.at(packed, *at, (pair, BLOCK), (o_in, 2), odd)
        for index in range(indices):
            bits = k.builder.load(k.at(source, index), align=2, typ=I16)
            k.builder.store(bits, k.at(to, index * many * 2 * PIXEL), align=2)
    return k


def split(k: KernelBuilder, number: Integer, size: int) -> tuple[Integer, Integer]:
    """Return quotient and rest of a division."""
    if isinstance(number, int):
        return divmod(number, size)
    return k.builder.udiv(number, k.integer(size)), k.builder.urem(number, k.integer(size))
