"""The gradient of a convolution's weights by tiles: sums over images, pairs of which lie together.

For sums over images these must lie along the inner axis of both factors. Images are packed, 32 at
a time, as [row][channel / 16][column][16 pairs of images][16 channels][2], and gradients turned
round, as [..][16 channels][16 pairs of images][2]. Sums are float32, [matrix][result / 16][channel
/ 16][16 results][16 channels].
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import I32, Integer, KernelBuilder
from ..compiler.tiles import ROWS, TILE, Tiles
from ..compiler.transpose import turn
from ..compiler.vectors import Vector
from .border import Pair
from .conv_direct import Tap
from .conv_tiles import TileCorrelation, blocks, split
from .sweep import sweep

IMAGES = 2 * ROWS  # that are summed over at a time
PLACE = TILE // 2  # numbers of a tile in bfloat16
NEAR = 1 << 19  # bytes of both factors that stay in the cache while all sums see them


def pack_images(target: Target, channels: int, pixels: Pair, turned: bool) -> KernelBuilder:
    """Return the kernel that packs images (h, w) that are channels-last, or gradients (`turned`):
    images, what it writes, number of images, of which 32 are packed at most. Those beyond the last
    are zeros."""
    k = KernelBuilder(target, "bfloat16", ("images", "packed"), ("count",))
    images, packed, count = k.arguments
    (h, w), many = pixels, blocks(channels, ROWS)
    for c in range(many):
        some = min(ROWS, channels - c * ROWS)
        with k.loop(h) as row, k.loop(w) as column:
            at = (row, w * channels), (column, channels), c * ROWS
            source = k.at(images, *at)
            pairs = [_pair(k, source, 2 * p, count, h * w * channels, some) for p in range(ROWS)]
            to = k.at(packed, (row, many * w * PLACE), (column, PLACE), c * w * PLACE)
            words = k.computed()
            for p, value in enumerate(turn(k, pairs) if turned else pairs):
                words.store(value, k.at(to, p * 2 * ROWS))
    return k


def _pair(
    k: KernelBuilder, source: Any, first: int, count: Integer, apart: int, some: int
) -> Vector:
    """Return words of the numbers of two images, of which the second has the higher half."""
    kind = ir.VectorType(I32, k.lanes)
    halves = []
    for image in (first, first + 1):
        exists = k.builder.icmp_signed("<", k.integer(image), count)
        # Beyond the last image no lane is read.
        left = k.builder.select(exists, k.integer(some), k.integer(0))
        bits = k.builder.bitcast(k.load(k.at(source, image * apart), left).value, kind)
        halves.append(bits)  # widened: in the higher half of each word
    low = k.builder.lshr(halves[0], ir.Constant(kind, [16] * k.lanes))
    return Vector(k, k.builder.bitcast(k.builder.or_(low, halves[1]), k.wide))


def correlate_weights(target: Target, c: TileCorrelation, rows: int) -> KernelBuilder:
    """Return the kernel that adds to sums what 32 images give: packed images, packed gradients,
    sums. `rows` of the gradient are gone through at a time."""
    k = KernelBuilder(target, "bfloat16", ("x", "dy", "sums"))
    tiles = Tiles(k)
    results, channels = blocks(c.results, ROWS), blocks(c.channels, ROWS)
    for first in range(0, c.output[0], rows):
        last = min(first + rows, c.output[0])
        for o, o_size in _groups(k, results):
            for b, b_size in _groups(k, channels):
                for tap in c.taps:
                    _add(k, tiles, c, (first, last), tap, (o, o_size), (b, b_size))
    tiles.release()
    return k


def _groups(k: KernelBuilder, count: int) -> Any:
    """Loop over blocks two at a time: yield the first and how many there are."""
    if count > 1:
        with k.loop(count // 2) as i:
            yield k.times(i, 2), 2
    if count % 2:
        yield count - 1, 1


def _add(
    k: KernelBuilder, tiles: Tiles, c: TileCorrelation, rows: Pair, tap: Tap,
    o: tuple[Integer, int], b: tuple[Integer, int],
) -> None:  # fmt: skip
    """Add to the sums of a tap what some rows give, in tiles 2 i + j."""
    x, dy, sums = k.arguments
    results, channels = blocks(c.results, ROWS), blocks(c.channels, ROWS)
    (u, v), (h, w), f = c.stride, c.image, c.output[1]
    down = [row for row in range(*rows) if 0 <= row * u + tap[0] < h]
    right = [column for column in range(f) if 0 <= column * v + tap[1] < w]
    if not down or not right:
        return
    wide = k.computed()
    place = [
        [
            wide.at(sums, (o[0], channels * TILE // 4), (b[0], TILE // 4),
                    (tap[2] * results * channels + i * channels + j) * TILE // 4)
            for j in range(b[1])
        ]
        for i in range(o[1])
    ]  # fmt: skip
    for i in range(o[1]):
        for j in range(b[1]):
            tiles.load(2 * i + j, place[i][j])
    with k.loop(len(down)) as row, k.loop(len(right)) as column:
        top = k.sum(row, down[0])
        at = (top, results * f * PLACE), (o[0], f * PLACE), (column, PLACE)
        for i in range(o[1]):
            tiles.load(4 + i, k.at(dy, *at, (right[0] + i * f) * PLACE))
        line = k.sum((row, u), down[0] * u + tap[0])
        at = (line, channels * w * PLACE), (b[0], w * PLACE), (column, v * PLACE)
        for j in range(b[1]):
            tiles.load(6 + j, k.at(x, *at, (right[0] * v + tap[1] + j * w) * PLACE))
        for i in range(o[1]):
            for j in range(b[1]):
                tiles.dot(2 * i + j, 4 + i, 6 + j)
    for i in range(o[1]):
        for j in range(b[1]):
            tiles.store(2 * i + j, place[i][j])


def clear(target: Target) -> KernelBuilder:
    """Return the kernel that writes zeros: where, how many float32 numbers."""
    k = KernelBuilder(target, "float32", ("x",), ("count",))
    x, count = k.arguments
    sweep(k, count, lambda index, some: k.store(k.vector(0.0), k.at(x, index), some))
    return k


def unpack_sums(target: Target, results: int, channels: int, indices: int) -> KernelBuilder:
    """Return the kernel that writes sums as weights [result][channel][index]: sums, weights."""
    k = KernelBuilder(target, "float32", ("sums", "w"))
    sums, w = k.arguments
    rows, columns = blocks(results, ROWS), blocks(channels, ROWS)
    with k.loop(results) as o, k.loop(channels) as c:
        i, i_in = split(k, o, ROWS)
        j, j_in = split(k, c, ROWS)
        at = (i, columns * TILE // 4), (j, TILE // 4), (i_in, ROWS), j_in
        source, to = k.at(sums, *at), k.at(w, (o, channels * indices), (c, indices))
        for index in range(indices):
            number = k.builder.load(
                k.at(source, index * rows * columns * TILE // 4), align=4, typ=k.real
            )
            k.builder.store(number, k.at(to, index), align=4)
    return k
