"""The gradient of a convolution's weights by tiles: sums over images, pairs of which lie together.

For sums over images these must lie along the inner axis of both factors. Rows of images and of
gradients are packed, 32 images, a group, beside the other: images as [group][row][channel /
16][column][16 pairs of images][16 channels][2], gradients, turned round, [group][row][result /
16][column][16 results][16 pairs of images][2]. A tile of sums has a row for each result. Once
complete, sums are written as rows of the gradient, (results, channels, taps) in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import I1, I16, I32, Integer, KernelBuilder, pieces
from ..compiler.tiles import BYTES, ROWS, TILE, TILES, WORDS, Tiles
from ..compiler.vectors import Vector
from .border import Pair
from .conv_direct import Tap
from .conv_tiles import TileCorrelation, blocks
from .shorts import WIDTH, square, store

BATCH = 2 * ROWS  # images that are summed over at a time
PLACE = TILE // 2  # numbers of a tile in bfloat16
SQUARE = ROWS * ROWS  # sums of a tile
SUMS = 6  # tiles of sums, at most: that leaves one for each factor
AHEAD = 2  # pixels that are asked for before they are packed
NUMBERS = ir.VectorType(I16, ROWS)
PAIRS = ir.Constant(ir.VectorType(I32, 2 * ROWS), [i for n in range(ROWS) for i in (n, n + ROWS)])
PAIR = 2  # blocks of results whose sums are formed together
TAPS = 25  # of which a gradient's numbers are put in order in registers, at most


class TileSums(NamedTuple):
    """How sums are formed, which changes none of them."""

    rows: int  # of results that are packed at a time
    sums: int  # tiles of sums at a time


class PackedRows(NamedTuple):
    """What is packed of images [row][column][image][channel]: some `columns`, `apart` pixels from
    one to the next and `down` from row to row; `present` images, in groups of 32 that have `room`
    rows each. What lacks of the last group is zeros."""

    images: int  # of all
    channels: int
    columns: int
    apart: int
    down: int
    present: int
    room: int
    turned: bool


def pack_rows(target: Target, p: PackedRows) -> KernelBuilder:
    """Return the kernel that packs rows: images, what it writes, number of rows."""
    k = KernelBuilder(target, "bfloat16", ("images", "packed"), ("rows",))
    source, packed, rows = k.arguments
    many = blocks(p.channels, ROWS)
    with k.loop(rows) as row, k.loop(p.columns) as column:
        pixel = k.at(source, (k.sum((row, p.down), (column, p.apart)), p.images * p.channels))
        for before, groups, present in pieces(p.present, BATCH):
            with k.loop(groups) as g:
                group = k.sum(g, before // BATCH)
                images = k.at(pixel, (group, BATCH * p.channels))
                own = k.at(packed, (group, p.room * many * p.columns * PLACE))
                _pack(k, p, present, images, k.at(own, (row, many * p.columns * PLACE)), column)
    return k


def _pack(k: KernelBuilder, p: PackedRows, present: int, pixel: Any, to: Any, column: Any) -> None:
    """Pack a pixel of a group of images, of which some are `present`."""
    for first, times, size in pieces(p.channels, ROWS):
        with k.loop(times) as i:
            at, tile = k.at(pixel, (i, ROWS), first), k.sum(i, first // ROWS)
            ahead = k.at(pixel, (tile, ROWS * BATCH), AHEAD * p.apart * p.images * p.channels)
            for line in range(0, ROWS * BATCH, 2 * ROWS):
                k.prefetch(k.at(ahead, line), near=2)
            lines = [
                numbers(k, k.at(at, n * p.channels), size * (n < present)) for n in range(BATCH)
            ]
            place = k.at(to, (tile, p.columns * PLACE), (column, PLACE))
            for n, value in enumerate(packed_tile(k, lines, p.turned)):
                store(k, value, k.at(place, n * 2 * ROWS))


def packed_tile(k: KernelBuilder, lines: Sequence[Any], turned: bool) -> list[Any]:
    """Return the words of a tile, of numbers of two of 32 images each, perhaps `turned`."""
    words = [_paired(k, *lines[n : n + 2]) for n in range(0, BATCH, 2)]
    return square(k, words) if turned else words


def numbers(k: KernelBuilder, pointer: Any, count: int) -> Any:
    """Return up to 16 numbers, zeros behind; memory behind them is not touched."""
    if not count:
        return ir.Constant(NUMBERS, [0] * ROWS)
    if count == ROWS:
        return k.builder.load(pointer, align=WIDTH, typ=NUMBERS)
    mask = ir.Constant(ir.VectorType(I1, ROWS), [i < count for i in range(ROWS)])
    values = [pointer, I32(WIDTH), mask, ir.Constant(NUMBERS, [0] * ROWS)]
    return k._call("llvm.masked.load.v16i16.p0", NUMBERS, values)


def _paired(k: KernelBuilder, one: Any, two: Any) -> Any:
    """Return words of a number of each of two vectors."""
    return k.builder.bitcast(k.builder.shuffle_vector(one, two, PAIRS), WORDS)


def correlate_weights(
    target: Target, c: TileCorrelation, room: Pair, together: int, channels: int
) -> KernelBuilder:
    """Return the kernel that sums up what rows of some groups of images give: packed images, packed
    gradients, sums, the gradient of weights for the first `channels`; the first row, number of
    rows and of groups, whether sums `begin` at zero, else they are added to; whether they end, so
    that the gradient is written, and whether sums of all blocks are `kept`, else these share their
    room. There is `room` for so many rows of a group's images, a power of two, in which a row lies
    at its number modulo that, and of its gradients. `together`: how many tiles of sums are formed
    at a time, at least those of a tap."""
    sizes = "first", "rows", "groups", "begins", "ends", "kept"
    k = KernelBuilder(target, "bfloat16", ("x", "dy", "sums", "dw"), sizes)
    writer = _Writer(k, c, room, together, channels)
    for o in _several(k, writer.results, PAIR):
        for b in _several(k, writer.channels, writer.most):
            place = writer.place(o, b)
            groups = writer.taps(o[1] * b[1])
            for number, taps in enumerate(groups):
                writer.share = number, len(groups)
                writer.add(taps, o, b, place)
            with k.where(k.positive(k.arguments[8])):
                writer.finish(o, b, place)
    writer.tiles.release()
    return k


Some = tuple[Integer, int]  # blocks: the first one, and how many there are


def _several(k: KernelBuilder, count: int, most: int) -> Iterator[Some]:
    """Loop over blocks, `most` at a time."""
    whole, rest = divmod(count, most)
    if whole:
        with k.loop(whole) as i:
            yield k.times(i, most), most
    if rest:
        yield whole * most, rest


class _Writer:
    """Writes the sums of some taps, over rows and columns."""

    def __init__(
        self, k: KernelBuilder, c: TileCorrelation, room: Pair, together: int, channels: int
    ) -> None:
        self.k, self.c, self.room, self.together, self.wanted = k, c, room, together, channels
        self.wide = k.computed()
        self.tiles = Tiles(k, [(ROWS, BYTES)] * TILES)
        self.results, self.channels = blocks(c.results, ROWS), blocks(channels, ROWS)
        self.across = blocks(c.channels, ROWS)  # of packed images
        self.share = 0, 1  # of the gradient's lines that are asked for: number, of how many
        # Taps of a row share tiles of images with their neighbours; a single one shares none.
        self.most = PAIR if max(map(len, self._rows_of_taps())) == 1 else 1

    def _rows_of_taps(self) -> list[list[Tap]]:
        rows: dict[int, list[Tap]] = {}
        for tap in self.c.taps:
            rows.setdefault(tap[0], []).append(tap)
        return [*rows.values()]

    def taps(self, blocks_of_sums: int) -> list[list[Tap]]:
        """Return the taps that are summed up together: some of a row, as many as there are tiles
        for sums."""
        most = max(1, self.together // blocks_of_sums)
        return [row[i : i + most] for row in self._rows_of_taps() for i in range(0, len(row), most)]

    def place(self, o: Some, b: Some) -> Any:
        """Return where the sums of blocks of results and channels lie."""
        k = self.k
        before = k.sum((o[0], self.channels), (b[0], o[1]))
        return self.wide.at(
            k.arguments[2], (k.times(before, k.arguments[9]), self.c.indices * SQUARE)
        )

    def _square(self, place: Any, tap: int, i: int, j: int, results: int) -> Any:
        """Return where a tile of sums lies: of a tap, a block of channels and one of results."""
        return self.wide.at(place, ((i * results + j) * self.c.indices + tap) * SQUARE)

    def add(self, taps: list[Tap], o: Some, b: Some, place: Any) -> None:
        """Sum up some taps of a row for blocks of results and of channels."""
        k, c = self.k, self.c
        sums = [(t, i, j) for j in range(o[1]) for t in range(len(taps)) for i in range(b[1])]
        places = [self._square(place, taps[t][2], i, j, o[1]) for t, i, j in sums]
        zero = k.none(k.builder.sub(k.arguments[7], k.integer(1)))
        self.tiles.resume(zero, places)
        _, first, rows = self._rows(taps[0][0])
        with k.where(k.positive(rows)), k.loop(rows) as r, k.loop(k.arguments[6]) as group:
            row = k.sum(first, r)
            for seen, alike in groupby(range(c.output[1]), key=lambda f: self._seen(taps, f)):
                columns = [*alike]
                if seen:
                    with k.loop(len(columns)) as i:
                        at = group, row, k.sum(i, columns[0])
                        self._pixel(taps, o, b, at, (sums, seen))
        for tile, at in enumerate(places):
            self.tiles.store(tile, at)

    def _rows(self, tap: int) -> tuple[Integer, Integer, Integer]:
        """Return of the rows of this call the first of all, then the first for which a tap's row
        lies in the image, counted from it, and how many do."""
        k, (u, height) = self.k, (self.c.stride[0], self.c.image[0])
        start, rows = k.arguments[4:6]
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
        self, taps: list[Tap], o: Some, b: Some, place: tuple[Integer, Integer, Integer],
        which: tuple[list[tuple[int, int, int]], tuple[int, ...]],
    ) -> None:  # fmt: skip
        """Add the products of a pixel at a `place`, its group, its row from the first one of this
        call, and its column: `which` sums there are, and the taps that the pixel sees."""
        k, c, tiles, (group, row, f), (sums, seen) = self.k, self.c, self.tiles, place, which
        x, dy, _, _, start, *_ = k.arguments
        width, across = c.image[1], c.output[1]
        gradient, *images = range(len(sums), TILES)
        at = k.sum((k.sum(start, row), c.stride[0]), taps[0][0])
        slot = k.builder.and_(k.integer(at), k.integer(self.room[0] - 1))
        slot, line = (
            k.sum((group, rows), i) for rows, i in zip(self.room, (slot, row), strict=True)
        )
        top = k.at(dy, (k.sum((line, self.results), o[0]), across * PLACE), (f, PLACE))
        line = k.at(x, (k.sum((slot, self.across), b[0]), width * PLACE),
                    (f, c.stride[1] * PLACE))  # fmt: skip
        factors = [(t, i) for t in seen for i in range(b[1])]
        self._fetch(o, b, k.sum((row, across), f))
        held: dict[int, tuple[int, int]] = {}
        for j in range(o[1]):
            tiles.operand(gradient, k.at(top, j * across * PLACE))
            order = factors[::-1] if j % 2 else factors  # what is held comes first
            for first in range(0, len(factors), len(images)):
                some = dict(zip(images, order[first : first + len(images)], strict=False))
                for tile, (t, i) in some.items():
                    if held.get(tile) != (t, i):
                        tiles.operand(tile, k.at(line, (taps[t][1] + i * width) * PLACE))
                        held[tile] = t, i
                tiles.dots([sums.index((*f, j)) for f in some.values()], gradient, [*some])

    def _fetch(self, o: Some, b: Some, pixel: Integer) -> None:
        """Ask for some of the cache lines that `finish` will write: at each pixel for those of a
        result or more, at each group of taps for its share of their lines."""
        if self.c.indices > TAPS:
            return
        k, (number, groups) = self.k, self.share
        many, lines = o[1] * ROWS, self.c.indices * b[1]
        at_once = blocks(many, prod(self.c.output))
        for i in range(at_once):
            result = k.builder.and_(k.integer(k.sum((pixel, at_once), i)), k.integer(many - 1))
            line = k.sum((k.sum((o[0], ROWS), result), self.wanted), (b[0], ROWS))
            to = self.wide.at(k.arguments[3], (line, self.c.indices))
            for share in range(lines * number // groups, lines * (number + 1) // groups):
                k.prefetch(self.wide.at(to, share * ROWS), write=True)

    def finish(self, o: Some, b: Some, place: Any) -> None:
        """Write the gradients of complete sums: of each result, for 16 channels at a time, the taps
        of one channel after those of the other."""
        k, wide, taps = self.k, self.wide, self.c.indices
        line = self.wanted * taps
        for j in range(o[1]):
            high = ROWS
            if self.c.results % ROWS:
                high = k.least(ROWS, k.sum(self.c.results, (k.sum(o[0], j), -ROWS)))
            with k.loop(high) as row:
                top = k.sum((k.sum(o[0], j), ROWS), row)
                for i in range(b[1]):
                    if taps > TAPS:
                        self._scatter(self._square(place, 0, i, j, o[1]), row, top, (b[0], i))
                        continue
                    from_tile = [
                        wide.load(wide.at(self._square(place, tap, i, j, o[1]), (row, ROWS)))
                        for tap in range(taps)
                    ]
                    first = k.sum((b[0], ROWS * taps), i * ROWS * taps)
                    to = wide.at(k.arguments[3], (top, line), first)
                    for n, value in enumerate(_interleaved(k, from_tile)):
                        left = None
                        if self.wanted % ROWS:
                            left = k.sum(line - n * ROWS, (first, -1))
                        wide.store(value, wide.at(to, n * ROWS), left)

    def _scatter(self, square: Any, row: Integer, top: Integer, b: tuple[Integer, int]) -> None:
        """Write a result's gradients of 16 channels, a tap after the other."""
        k, wide, taps = self.k, self.wide, self.c.indices
        first = k.sum((b[0], ROWS), b[1] * ROWS)
        with k.loop(taps) as tap:
            values = wide.load(wide.at(square, (tap, SQUARE), (row, ROWS)))
            for lane in range(ROWS):
                channel = k.sum(first, lane)
                to = wide.at(k.arguments[3], (top, self.wanted * taps), (channel, taps), tap)
                there = k.positive(k.sum(self.wanted, (channel, -1)))
                with k.where(there):
                    number = k.builder.extract_element(values.value, I32(lane))
                    k.builder.store(number, to, align=4)


def _interleaved(k: KernelBuilder, vectors: list[Vector]) -> Iterator[Vector]:
    """Yield the first numbers of several vectors, then the second ones, and so on."""
    many, lanes = len(vectors), range(k.lanes)
    # Of an odd number of vectors, each can be brought into an order in which all its numbers are in
    # the lanes where they will be, so that the rest are selections.
    moves = many % 2 == 1
    lane_of = [[(lane * many + n) % k.lanes if moves else lane for lane in lanes]
               for n in range(many)]  # fmt: skip
    if moves and many > 1:
        vectors = [
            k.shuffle(v, v, [order.index(lane) for lane in lanes])
            for v, order in zip(vectors, lane_of, strict=True)
        ]
    for first in range(0, many * k.lanes, k.lanes):
        sources = [divmod(first + lane, many)[::-1] for lane in lanes]  # (vector, lane)
        used = [*dict.fromkeys(n for n, _ in sources)]
        result = vectors[used[0]]
        chosen = [lane_of[n][lane] if n == used[0] else i for i, (n, lane) in enumerate(sources)]
        if chosen != [*lanes]:
            result = k.shuffle(result, result, chosen)
        for other in used[1:]:
            result = k.shuffle(result, vectors[other], [
                k.lanes + lane_of[n][lane] if n == other else i
                for i, (n, lane) in enumerate(sources)
            ])  # fmt: skip
        yield result
