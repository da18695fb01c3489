"""The gradient of a convolution's weights by tiles: sums over images, pairs of which lie together.

For sums over images these must lie along the inner axis of both factors. Rows of images and of
gradients are packed, 32 images at a time: gradients as [row][result / 16][column][16 pairs of
images][16 results][2], images turned round, [row][channel / 16][column][16 channels][16 pairs of
images][2]. Sums are float32, [matrix][channel][result], whose two inner axes are filled up to 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.tiles import BYTES, ROWS, TILE, Tiles
from .conv_direct import Tap
from .conv_tiles import TileCorrelation, blocks
from .shorts import load, meet, paired, square, store

BATCH = 2 * ROWS  # images that are summed over at a time
PLACE = TILE // 2  # numbers of a tile in bfloat16
SUMS = 6  # tiles of sums, at most: that leaves one for each factor


class TileSums(NamedTuple):
    """How sums are formed, which changes none of them."""

    rows: int  # of results that are packed at a time
    sums: int  # tiles of sums at a time


def pack_rows(
    target: Target, images: int, channels: int, width: int, count: int, turned: bool
) -> KernelBuilder:
    """Return the kernel that packs rows [row][column][image][channel], perhaps `turned`, of `count`
    images out of all: images, what it writes, number of rows. Other images count as zeros."""
    k = KernelBuilder(target, "bfloat16", ("images", "packed"), ("rows",))
    source, packed, rows = k.arguments
    many = blocks(channels, ROWS)
    with k.loop(rows) as row, k.loop(width) as column:
        pixel = k.sum((row, width), column)
        for first, times, size in pieces(channels, 2 * ROWS):
            with k.loop(times) as i:
                at = k.at(source, (pixel, images * channels), (i, size), first)
                lines = [load(k, k.at(at, n * channels), size * (n < count)) for n in range(BATCH)]
                for tile, words in enumerate(_packed(k, lines, turned)[: blocks(size, ROWS)]):
                    c = k.sum((i, 2), first // ROWS + tile)
                    to = k.at(packed, (k.sum((row, many), c), width * PLACE), (column, PLACE))
                    for p, value in enumerate(words):
                        store(k, value, k.at(to, p * 2 * ROWS))
    return k


def _packed(k: KernelBuilder, lines: Sequence[Any], turned: bool) -> list[list[Any]]:
    """Return two tiles, whose words are numbers of two images, of 32 images' numbers."""
    if turned:
        low, high = (square(k, lines[odd::2]) for odd in (0, 1))
        rows = [meet(k, low[c // 2], high[c // 2], c % 2) for c in range(2 * ROWS)]
        return [rows[:ROWS], rows[ROWS:]]
    pairs = [paired(k, *lines[i : i + 2]) for i in range(0, BATCH, 2)]
    return [list(tile) for tile in zip(*pairs, strict=True)]


def correlate_weights(
    target: Target, c: TileCorrelation, ring: int, together: int
) -> KernelBuilder:
    """Return the kernel that sums up what rows of 32 images' gradients give: packed images, packed
    gradients, sums, the first row, number of rows, and whether sums `begin` at zero, else they are
    added to. A row of images lies at its number modulo `ring`, a power of two. `together`: how many
    tiles of sums are formed at a time, at least those of a tap."""
    k = KernelBuilder(target, "bfloat16", ("x", "dy", "sums"), ("first", "rows", "begins"))
    writer = _Writer(k, c, ring, together)
    for o, results in _several(k, writer.results, 2):
        for b, channels in _several(k, writer.channels, 2):
            for taps in writer.taps(results * channels):
                writer.add(taps, (o, results), (b, channels))
    writer.tiles.release()
    return k


def _several(k: KernelBuilder, count: int, most: int) -> Iterator[tuple[Integer, int]]:
    """Loop over blocks, `most` at a time: yield the first and how many there are."""
    whole, rest = divmod(count, most)
    if whole:
        with k.loop(whole) as i:
            yield k.times(i, most), most
    if rest:
        yield whole * most, rest


class _Writer:
    """Writes the sums of some taps, over rows and columns."""

    def __init__(self, k: KernelBuilder, c: TileCorrelation, ring: int, together: int) -> None:
        self.k, self.c, self.ring, self.together = k, c, ring, together
        self.tiles = Tiles(k, [(ROWS, BYTES)] * 8)
        self.results, self.channels = blocks(c.results, ROWS), blocks(c.channels, ROWS)

    def taps(self, blocks_of_sums: int) -> list[list[Tap]]:
        """Return the taps that are summed up together: some of a row, as many as there are tiles
        for sums."""
        rows: dict[int, list[Tap]] = {}
        for tap in self.c.taps:
            rows.setdefault(tap[0], []).append(tap)
        most = max(1, self.together // blocks_of_sums)
        return [row[i : i + most] for row in rows.values() for i in range(0, len(row), most)]

    def add(self, taps: list[Tap], o: tuple[Integer, int], b: tuple[Integer, int]) -> None:
        """Sum up some taps of a row for blocks of results `o` and of channels `b`."""
        k, c = self.k, self.c
        sums = [(t, i, j) for t in range(len(taps)) for i in range(b[1]) for j in range(o[1])]
        wide, line = k.computed(), self.results * ROWS
        places = [
            wide.at(k.arguments[2], (b[0], ROWS * line), (o[0], ROWS),
                    (taps[t][2] * self.channels * ROWS + i * ROWS) * line + j * ROWS)
            for t, i, j in sums
        ]  # fmt: skip
        zero = k.none(k.builder.sub(k.arguments[5], k.integer(1)))
        with k.builder.if_else(zero) as (begin, go_on):
            with begin:
                for tile in range(len(sums)):
                    self.tiles.zero(tile)
            with go_on:
                for tile, place in enumerate(places):
                    self.tiles.load(tile, place, 4 * line)
        _, first, rows = self._rows(taps[0][0])
        with k.where(k.positive(rows)), k.loop(rows) as r:
            row = k.sum(first, r)
            for seen, group in groupby(range(c.output[1]), key=lambda f: self._seen(taps, f)):
                columns = [*group]
                if seen:
                    with k.loop(len(columns)) as i:
                        self._pixel(taps, o, b, row, k.sum(i, columns[0]), (sums, seen))
        for tile, place in enumerate(places):
            self.tiles.store(tile, place, 4 * line)

    def _rows(self, tap: int) -> tuple[Integer, Integer, Integer]:
        """Return of the rows of this call the first of all, then the first for which a tap's row
        lies in the image, counted from it, and how many do."""
        k, (u, height) = self.k, (self.c.stride[0], self.c.image[0])
        start, rows = k.arguments[3:5]
        first = max(0, -(tap // u))  # the first row of results that sees one of the image
        last = min(self.c.output[0], (height - 1 - tap) // u + 1)
        zero = k.integer(0)
        low = k.builder.sub(k.integer(first), start)
        low = k.builder.select(k.positive(low), low, zero)
        high = k.least(k.builder.sub(k.integer(last), start), rows)
        return start, low, k.builder.sub(high, low)

    def _seen(self, taps: list[Tap], f: int) -> tuple[int, ...]:
        """Return which taps a column of results sees."""
        place = f * self.c.stride[1]
        return tuple(i for i, t in enumerate(taps) if 0 <= place + t[1] < self.c.image[1])

    def _pixel(
        self, taps: list[Tap], o: tuple[Integer, int], b: tuple[Integer, int], row: Integer,
        f: Integer, wanted: tuple[list[tuple[int, int, int]], tuple[int, ...]],
    ) -> None:  # fmt: skip
        """Add the products of a pixel; `row` counts from the first one of this call."""
        k, c, tiles, (sums, seen) = self.k, self.c, self.tiles, wanted
        x, dy, _, start, *_ = k.arguments
        width, across = c.image[1], c.output[1]
        spare = 8 - len(sums)
        factors = [len(sums) + i for i in range(spare)]
        gradients, images = factors[: spare // 2], factors[spare // 2 :]
        at = k.sum((k.sum(start, row), c.stride[0]), taps[0][0])
        slot = k.builder.and_(k.integer(at), k.integer(self.ring - 1))
        top = k.at(dy, (k.sum((row, self.results), o[0]), across * PLACE), (f, PLACE))
        line = k.at(x, (k.sum((slot, self.channels), b[0]), width * PLACE),
                    (f, c.stride[1] * PLACE))  # fmt: skip
        held: dict[int, int] = {}
        for number, (t, i) in enumerate((t, i) for t in seen for i in range(b[1])):
            image = images[number % len(images)]
            tiles.operand(image, k.at(line, (taps[t][1] + i * width) * PLACE))
            for first in range(0, o[1], len(gradients)):
                some = dict(zip(range(first, o[1]), gradients, strict=False))
                for j, gradient in some.items():
                    if held.get(gradient) != j:
                        tiles.operand(gradient, k.at(top, j * across * PLACE))
                        held[gradient] = j
                tiles.dots([sums.index((t, i, j)) for j in some], image, [*some.values()])
