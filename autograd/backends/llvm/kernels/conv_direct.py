"""Direct convolution: sums over taps stay in registers.

`correlate` loops over images, groups, blocks of results, tiles of pixels, taps and channels; in
registers are the sums of a tile (rows x columns x vectors of results), the weights of the taps that
share numbers of x, and one broadcast number of x. With taps and weights reversed the same generator
gives the gradient of x. `correlate_weights` keeps the sums of some taps, channels and results in
registers over all pixels of all images of a chunk. `plans/conv.py` chooses tiles so that the sums
fit, and chunks of images that fit in half of the second-level cache.

A tap (row, column, index) says where, from its window's first pixel, it sees x, and which matrix
(channels, results) of the weights it multiplies with. Borders are copied with zeros (`border.py`).
Images of a narrow type are copied too; weights and scratch memory are of the type of arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ....dtypes import is_narrow
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.transpose import columns_of
from ..compiler.vectors import Variable, Vector
from .border import Border, Pair, seen
from .epilogue import NOTHING, Epilogue, Tail

Tap = tuple[int, int, int]
NEAR = 24 << 10  # bytes of weights that leave room for pixels in a first-level cache of 32 KB


class ConvTile(NamedTuple):
    """How a direct convolution is blocked."""

    rows: int  # of pixels, in registers
    columns: int  # of pixels (gradient of w: channels), in registers
    vectors: int  # of results, in registers
    taps: int  # that share a number of x once it is loaded
    unroll: int  # channels (gradient of w: pixels) in one turn of the loop
    images: int  # taken at a time, so that they stay in the second-level cache


class Correlation(NamedTuple):
    """y[n, e, f, :] = the sum over taps of x[n, u e + row, v f + column, :] w[index], per group.

    Weights lie as `pack` leaves them; their gradient is [group][index][channels][results].
    """

    dtype: str  # of x and y
    channels: int  # of x, per group
    results: int  # channels of y, per group
    groups: int  # of channels that do not see one another
    indices: int  # matrices of the weights
    image: Pair  # (h, w) of x
    output: Pair  # (e, f) of y
    taps: tuple[Tap, ...]  # (row, column, index), see the head of this file
    stride: Pair  # (u, v)
    out: tuple[int, int, int]  # numbers from one image, row and pixel of y to the next

    @property
    def border(self) -> Border:
        """The part of x that its windows see."""
        if not self.taps:
            return Border(self.image, (0, 0), (0, 0), self.groups * self.channels)
        lows = [min(t[axis] for t in self.taps) for axis in (0, 1)]
        highs = [max(t[axis] for t in self.taps) for axis in (0, 1)]
        size = [(self.output[a] - 1) * self.stride[a] + highs[a] - lows[a] + 1 for a in (0, 1)]
        whole, narrow = self.groups * self.channels, is_narrow(np.dtype(self.dtype))
        return Border(self.image, (lows[0], lows[1]), (size[0], size[1]), whole, narrow)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an image."""
        weights = self.channels * self.results * self.groups * len(self.taps)
        return self.output[0] * self.output[1] * weights

    def offset(self, tap: Tap) -> Pair:
        """Return where a tap sees x, counted from the first pixel that any sees."""
        start = self.border.start
        return tap[0] - start[0], tap[1] - start[1]


def chunks(k: KernelBuilder, count: Integer, size: int) -> Iterator[tuple[Integer, Integer]]:
    """Loop over `count` images, `size` at a time: yield the first and how many there are."""
    whole = k.builder.udiv(k.sum(count, size - 1), k.integer(size))
    with k.loop(whole) as i:
        first = k.times(i, size)
        yield first, k.least(size, k.builder.sub(count, k.integer(first)))


def correlate(
    target: Target, c: Correlation, tile: ConvTile, biased: bool, epilogue: Epilogue = NOTHING,
    begins: bool = True,
) -> KernelBuilder:  # fmt: skip
    """Return the kernel of a correlation: x, w, y, scratch, the bias if there is one, what the
    epilogue takes, number of images. It `begins` the epilogue's sums, or goes on with them."""
    names = ("x", "w", "y", "scratch", *("bias",) * biased, *epilogue.pointers)
    k = KernelBuilder(target, c.dtype, names, ("count",))
    wide, (x, w, y, scratch, *more, count) = k.computed(), k.arguments
    bias, whole = more[:biased], c.groups * c.results
    tail = Tail(k, epilogue, more[biased:], c.out[0], whole) if any(epilogue) else None
    weights = c.channels * c.results
    for first, images in chunks(k, count, tile.images):
        source = seen(k, c.border, x, scratch, first, images)
        target_ = k.at(y, (first, c.out[0]))
        with k.loop(c.groups) as g:
            block = _GroupWriter(
                k, c, tile, wide.at(source, (g, c.channels)),
                wide.at(w, (g, c.indices * weights)), [k.at(b, (g, c.results)) for b in bias],
                k.at(target_, (g, c.results)), images, tail, first, k.times(g, c.results), begins,
            )  # fmt: skip
            block.run()
    return k


def pack(
    target: Target, dtype: str, groups: int, indices: int, channels: int, results: int, width: int,
    turned: bool,
) -> KernelBuilder:  # fmt: skip
    """Return the kernel that lays out weights for a correlation in blocks of `width` results: w
    [group][result][channel][index], or `turned`, [group][channel][result][index], and what it
    writes, [group][block][index][channel][result]. So each block's weights lie together, and do not
    meet in few cache sets."""
    k = KernelBuilder(target, dtype, ("w", "packed"))
    wide, (w, packed) = k.computed(), k.arguments
    whole = indices * channels * results
    outer, inner = (results, 1) if turned else (1, channels)
    apart = inner * indices
    for first, count, size in pieces(results, width):
        with k.loop(groups) as g, k.loop(count) as o, k.loop(channels) as channel:
            start = k.sum((o, size), first)
            source = k.at(w, (g, whole), (start, apart), (channel, outer * indices))
            to = wide.at(packed, (g, whole), (start, indices * channels), (channel, size))
            for begin, times, some in pieces(indices, k.lanes):
                with k.loop(times) as i:
                    index = k.sum((i, some), begin)
                    # Squares are transposed in registers: the indices of a weight lie side by side.
                    for lane in range(0, size, k.lanes):
                        rows = min(k.lanes, size - lane)
                        at = k.at(source, index, lane * apart)
                        into = wide.at(to, (index, channels * size), lane)
                        for j, value in enumerate(columns_of(k, at, apart, rows, some)):
                            wide.store(value, wide.at(into, j * channels * size), rows)
    return k


class _GroupWriter:
    """Writes the correlation of one group over some images."""

    def __init__(
        self, k: KernelBuilder, c: Correlation, tile: ConvTile, x: Any, w: Any, bias: list[Any],
        y: Any, images: Integer, tail: Tail | None, first: Integer, channel: Integer, begins: bool,
    ) -> None:  # fmt: skip
        self.k, self.wide, self.c, self.tile = k, k.computed(), c, tile
        self.x, self.w, self.bias, self.y, self.images = x, w, bias, y, images
        self.tail, self.first, self.channel, self.begins = tail, first, channel, begins
        self.apart = c.border.strides

    def run(self) -> None:
        """Go through blocks of results, images and tiles of pixels. Weights that are too many for
        the first-level cache are gone through once, else images."""
        k, c, tile = self.k, self.c, self.tile
        width = tile.vectors * k.lanes
        wide = c.channels * c.results * len(c.taps) * k.dtype.itemsize > NEAR
        parts = [
            (o, count, -(-size // k.lanes), size) for o, count, size in pieces(c.results, width)
        ]
        for start, count, vectors, size in parts:
            if wide:
                with k.loop(count) as o, k.loop(self.images) as n:
                    self._image(n, k.sum((o, width), start), vectors, size)
            else:
                with k.loop(self.images) as n, k.loop(count) as o:
                    self._image(n, k.sum((o, width), start), vectors, size)

    def _image(self, n: Integer, o: Integer, vectors: int, size: int) -> None:
        k, tile, (e, f) = self.k, self.tile, self.c.output
        for rows, columns in product(pieces(e, tile.rows), pieces(f, tile.columns)):
            with k.loop(rows[1]) as i, k.loop(columns[1]) as j:
                h, w = k.sum((i, rows[2]), rows[0]), k.sum((j, columns[2]), columns[0])
                self._pixels(n, h, w, o, (rows[2], columns[2]), vectors, size)

    def _pixels(
        self, n: Integer, h: Integer, w: Integer, o: Integer, extent: Pair, vectors: int, size: int
    ) -> None:
        """Compute some pixels' results, in registers from the first tap to the last."""
        k, wide, c, (image, row, pixel) = self.k, self.wide, self.c, self.apart
        x = wide.at(self.x, (n, image), (h, c.stride[0] * row), (w, c.stride[1] * pixel))
        y = k.at(self.y, (n, c.out[0]), (h, c.out[1]), (w, c.out[2]), o)
        weights = wide.at(self.w, (o, c.indices * c.channels))
        pixels = [*product(range(extent[0]), range(extent[1]))]
        counts = [min(k.lanes, size - v * k.lanes) for v in range(vectors)]
        first = [k.vector(0.0)] * vectors
        for bias in self.bias:
            first = [k.load(k.at(bias, o, v * k.lanes), n) for v, n in enumerate(counts)]
        sums = {(p, v): k.variable(first[v]) for p in pixels for v in range(vectors)}
        offsets = [
            a * c.out[1] + b * c.out[2] + v * k.lanes for a, b in pixels for v in range(vectors)
        ]
        # The sums take so long that the lines of y are there when they are stored.
        for offset in offsets:
            k.prefetch(k.at(y, offset), write=True)
        terms = (h, c.out[1]), (w, c.out[2]), o
        if self.tail is not None and c.taps:
            self.tail.ask(k.sum(self.first, n), (*terms, self.channel), offsets)
        for start in range(0, len(c.taps), self.tile.taps):
            taps = c.taps[start : start + self.tile.taps]
            self._taps(taps, x, weights, sums, counts, size)
        values = [total.get() for total in sums.values()]
        totals = dict(zip(sums, k.settled(values) if c.results <= k.lanes else values, strict=True))
        for v, count in enumerate(counts):
            finished = self._finish({p: totals[p, v] for p in pixels}, n, h, w, o, v, count)
            for (a, b), value in finished.items():
                k.store(value, k.at(y, a * c.out[1] + b * c.out[2] + v * k.lanes), count)

    def _finish(
        self, values: dict[Pair, Vector], n: Integer, h: Integer, w: Integer, o: Integer, v: int,
        count: int,
    ) -> dict[Pair, Vector]:  # fmt: skip
        """Return what the epilogue makes of the v-th vector of results of some pixels."""
        k, c = self.k, self.c
        if self.tail is None:
            return values
        channel = k.sum(self.channel, o, v * k.lanes)
        begins = k.none(h, w) if self.begins else None
        return self.tail.finish(
            values, k.sum(self.first, n), ((h, c.out[1]), (w, c.out[2]), channel),
            lambda p: p[0] * c.out[1] + p[1] * c.out[2], channel, count, begins,
        )  # fmt: skip

    def _taps(
        self,
        taps: tuple[Tap, ...],
        x: Any,
        w: Any,
        sums: dict[tuple[Pair, int], Variable],
        counts: list[int],
        width: int,
    ) -> None:
        """Add what some taps contribute, all channels."""
        k, c, unroll = self.wide, self.c, min(self.tile.unroll, self.c.channels)
        for start, count, size in pieces(c.channels, unroll):
            with k.loop(count) as i:
                for j in range(size):
                    channel = k.sum((i, size), start + j)
                    at = k.at(x, channel), k.at(w, (channel, width))
                    self._channel(taps, *at, sums, counts, c.channels * width)

    def _channel(
        self,
        taps: tuple[Tap, ...],
        x: Any,
        w: Any,
        sums: dict[tuple[Pair, int], Variable],
        counts: list[int],
        matrix: int,
    ) -> None:
        k, c, (_, row, pixel) = self.wide, self.c, self.apart
        factors = [
            [k.load(k.at(w, tap[2] * matrix + v * k.lanes), n) for v, n in enumerate(counts)]
            for tap in taps
        ]
        # Neighbouring places see the same pixel through different taps: it is loaded once for all.
        readers: dict[Pair, list[tuple[Pair, list[Vector]]]] = {}
        for a, b in dict.fromkeys(p for p, _ in sums):
            for tap, factor in zip(taps, factors, strict=True):
                down, right = c.offset(tap)
                position = (a * c.stride[0] + down, b * c.stride[1] + right)
                readers.setdefault(position, []).append(((a, b), factor))
        for (a, b), users in sorted(readers.items(), key=lambda item: item[0]):
            seen_here = k.broadcast(k.at(x, a * row + b * pixel))
            for p, factor in users:
                for v, f in enumerate(factor):
                    sums[p, v].set(k.fma(seen_here, f, sums[p, v].get()))


def correlate_weights(target: Target, c: Correlation, tile: ConvTile) -> KernelBuilder:
    """Return the kernel of the gradient of the weights: x, dw, dy, scratch, number of images; dw
    [group][index][channels][results], of the type of arithmetic, is the sum over images and pixels
    of x and dy."""
    k = KernelBuilder(target, c.dtype, ("x", "w", "y", "scratch"), ("count",))
    wide, (x, w, y, scratch, count) = k.computed(), k.arguments
    for first, images in chunks(k, count, tile.images):
        source = seen(k, c.border, x, scratch, first, images)
        tops = k.at(y, (first, c.out[0]))
        with k.loop(c.groups) as g:
            part = wide.at(source, (g, c.channels)), k.at(tops, (g, c.results))
            to = wide.at(w, (g, c.indices * c.channels * c.results))
            _weights(k, c, tile, *part, to, images, k.positive(first))
    return k


def _weights(
    k: KernelBuilder, c: Correlation, tile: ConvTile, x: Any, y: Any, w: Any, images: Integer,
    again: Any,
) -> None:  # fmt: skip
    """Go through blocks of taps, channels and results; each is summed in registers over all
    images, and added to what is there only where a flag says `again`."""
    wide, width = k.computed(), tile.vectors * k.lanes
    for start in range(0, len(c.taps), tile.taps):
        taps = c.taps[start : start + tile.taps]
        blocks = product(pieces(c.channels, tile.columns), pieces(c.results, width))
        for channels, results in blocks:
            counts = [
                min(k.lanes, results[2] - v * k.lanes) for v in range(-(-results[2] // k.lanes))
            ]
            with k.loop(channels[1]) as i, k.loop(results[1]) as j:
                channel = k.sum((i, channels[2]), channels[0])
                result = k.sum((j, results[2]), results[0])
                sums = {
                    (t, p, v): k.variable()
                    for t in range(len(taps))
                    for p in range(channels[2])
                    for v in range(len(counts))
                }
                at = wide.at(x, channel), k.at(y, result)
                _sweep(k, c, tile, taps, *at, sums, counts, images)
                for (t, p, v), total in sums.items():
                    offset = (taps[t][2] * c.channels + p) * c.results + v * k.lanes
                    to = wide.at(w, (channel, c.results), result, offset)
                    # Not times 0: the first images find memory that was never set, NaN perhaps.
                    before = k.select(again, wide.load(to, counts[v]), 0.0)
                    wide.store(before + total.get(), to, counts[v])


def _sweep(
    k: KernelBuilder,
    c: Correlation,
    tile: ConvTile,
    taps: tuple[Tap, ...],
    x: Any,
    y: Any,
    sums: dict[tuple[int, int, int], Variable],
    counts: list[int],
    images: Integer,
) -> None:
    """Add what all pixels of some images contribute to the gradient of some taps."""
    wide, (image, row, pixel) = k.computed(), c.border.strides
    offsets = [c.offset(tap) for tap in taps]
    with k.loop(images) as n, k.loop(c.output[0]) as e:
        for start, count, size in pieces(c.output[1], tile.unroll):
            with k.loop(count) as i:
                f = k.sum((i, size), start)
                source = wide.at(x, (n, image), (e, c.stride[0] * row), (f, c.stride[1] * pixel))
                tops = k.at(y, (n, c.out[0]), (e, c.out[1]), (f, c.out[2]))
                _add_pixels(k, c, offsets, source, tops, sums, counts, size)


def _add_pixels(
    k: KernelBuilder, c: Correlation, offsets: list[Pair], x: Any, y: Any,
    sums: dict[tuple[int, int, int], Variable], counts: list[int], size: int,
) -> None:  # fmt: skip
    """Add what `size` pixels of dy from y on contribute. A number of x that several of them see is
    loaded once, and pixels of dy are loaded when the first that needs them comes by."""
    wide, (_, row, pixel) = k.computed(), c.border.strides
    channels = 1 + max(p for _, p, _ in sums)
    readers: dict[Pair, list[tuple[int, int]]] = {}
    for u, (t, (down, right)) in product(range(size), enumerate(offsets)):
        readers.setdefault((u * c.stride[1] + right, down), []).append((u, t))
    loaded: dict[int, list[Vector]] = {}
    for (right, down), users in sorted(readers.items()):
        for u, _ in users:
            if u not in loaded:
                loaded[u] = [
                    k.load(k.at(y, u * c.out[2] + v * k.lanes), m) for v, m in enumerate(counts)
                ]
        for p in range(channels):
            value = wide.broadcast(wide.at(x, down * row + right * pixel + p))
            for u, t in users:
                for v, top in enumerate(loaded[u]):
                    total = sums[t, p, v]
                    total.set(k.fma(value, top, total.get()))
