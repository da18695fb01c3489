"""Weights of Winograd's method: transformed before the images, and their gradient after.

The gradient keeps sums of some channels x vectors of results in registers while the tiles of a
block run, one position at a time. It adds them up in transformed form over all blocks;
`collect_weights` transforms them back once.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.transpose import columns_of
from ..compiler.vectors import Variable
from .conv_direct import chunks
from .conv_winograd import BlockShape, Plane, Winograd, add_products, blocks_of, factors, planes
from .conv_winograd_exact import Filters, Pixels, checked, weighed
from .conv_winograd_transforms import both, evaluate, images, interpolate, values


def spread_weights(target: Target, c: Winograd, turned: bool, opposite: bool) -> KernelBuilder:
    """Return the kernel that transforms weights for `convolve`: w [result][channel][tap], and the
    transformed ones; `turned`, w is [channel][result][tap]; `opposite`, the taps are read in
    opposite order."""
    k = KernelBuilder(target, c.dtype, ("w", "u"))
    wide, (w, u) = k.computed(), k.arguments
    plane, taps = factors(target, c), c.taps**2
    filters = Filters.of(w, (c.channels, c.results), c.taps, turned, opposite)
    order = range(taps)[::-1] if opposite else range(taps)
    for start, count, size in pieces(c.results, k.lanes):
        with k.loop(count) as o, k.loop(c.channels) as channel:
            result = k.sum((o, size), start)
            at = k.at(w, (channel, filters.channel), (result, filters.result))
            into = wide.at(u, (channel, plane.width), result)
            loaded = [
                value
                for first, times, some in pieces(taps, k.lanes)
                for i in range(times)
                for value in columns_of(k, k.at(at, first + i * some), filters.result, size, some)
            ]
            line = [loaded[t] for t in order]
            grid = [line[i : i + c.taps] for i in range(0, taps, c.taps)]
            transformed = both(k, evaluate, values(c.size, c.taps, scaled=True), grid)
            for p, value in enumerate(v for row in transformed for v in row):
                wide.store(value, wide.at(into, p * plane.apart))
    return k


def collect_weights(target: Target, c: Winograd, parts: int) -> KernelBuilder:
    """Return the kernel that folds and transforms back what `convolve_weights` summed up for parts
    of the images: it [part], dw [result][channel][tap], x, dy, a row of zeros, number of images."""
    k = KernelBuilder(target, c.dtype, ("u", "w", "x", "y", "zeros"), ("count",))
    wide, (u, w, x, y, zeros, many) = k.computed(), k.arguments
    pixels = Pixels(x, zeros, c.border, c.start)
    plane, taps = factors(target, c), c.taps**2
    for start, count, size in pieces(c.results, k.lanes):
        with k.loop(count) as o, k.loop(c.channels) as channel:
            result = k.sum((o, size), start)
            at = wide.at(u, (channel, plane.width), result)
            into = wide.at(w, (result, c.channels * taps), (channel, taps))
            sums = []
            for p in range(c.positions):
                indices = [q * c.positions + p for q in range(parts)]
                first, *more = (wide.load(wide.at(at, index * plane.apart)) for index in indices)
                sums.append(reduce(add, more, first))
            grid = [sums[i : i + c.size] for i in range(0, c.positions, c.size)]
            matrix, tops = values(c.size, c.taps, scaled=True), k.at(y, result)
            transformed = both(k, interpolate, matrix, grid)
            again = weighed(k, pixels, tops, c.output, c.results, channel, many, size)
            transformed = checked(k, matrix, transformed, size, again)
            for t, value in enumerate(v for row in transformed for v in row):
                wide.scatter(value, wide.at(into, t), c.channels * taps, size)
    return k


def convolve_weights(target: Target, c: Winograd, b: BlockShape) -> KernelBuilder:
    """Return the kernel of the gradient of the weights: x, the result [position][channel][result],
    dy, a row of zeros, memory for both planes, number of images."""
    names = ("x", "u", "y", "zeros", "v", "p")
    k = KernelBuilder(target, c.dtype, names, ("count",))
    wide, (x, u, y, zeros, v, p, count) = k.computed(), k.arguments
    left, right = planes(target, c, b)
    for first, some in chunks(k, count, b.images):
        for block in blocks_of(k, c, b, first, some):
            block.spread(images(c.size), x, zeros, c.border, v, left)
            block.spread(values(c.size, c.outputs), y, zeros, c.tops, p, right)
            tiles = k.times(k.times(some, block.rows), c.grid[1])
            with k.loop(c.positions) as position:
                block.fetch_x(position, x, b, c.border)
                block.fetch_x(position, y, b, c.tops)
                ends = (
                    wide.at(v, (position, left.apart)),
                    wide.at(u, (position, factors(target, c).apart)),
                    wide.at(p, (position, right.apart)),
                )
                _reduce(wide, c, b, (left, right), ends, tiles, k.sum(first, block.number))
    return k


def _reduce(
    k: KernelBuilder, c: Winograd, b: BlockShape, both: tuple[Plane, Plane],
    at: tuple[Any, Any, Any], tiles: Integer, before: Integer,
) -> None:  # fmt: skip
    """Add what the tiles contribute to one position of the weights' gradient, a few channels and
    vectors of results at a time. Where nothing came `before`, sums begin with zero."""
    (v, u, p), (left, right) = at, both
    again = k.positive(before)
    for start, count, vectors in pieces(right.width // k.lanes, b.vectors):
        for first, several, size in pieces(c.channels, b.tiles):
            with k.loop(count) as o, k.loop(several) as s:
                result = k.sum((o, vectors * k.lanes), start * k.lanes)
                channel = k.sum((s, size), first)
                to = k.at(u, (channel, right.width), result)
                addresses = {
                    (i, j): k.at(to, i * right.width + j * k.lanes)
                    for i in range(size)
                    for j in range(vectors)
                }
                sums = {
                    position: k.variable(k.select(again, k.load(end), 0.0))
                    for position, end in addresses.items()
                }
                _over_tiles(k, b, (left, right), k.at(v, channel), k.at(p, result), sums, tiles)
                for position, total in sums.items():
                    k.store(total.get(), addresses[position])


def _over_tiles(
    k: KernelBuilder, b: BlockShape, both: tuple[Plane, Plane], x: Any, y: Any,
    sums: dict[tuple[int, int], Variable], tiles: Integer,
) -> None:  # fmt: skip
    """Add the products of all tiles: several at a time, then what is left."""
    (left, right), size = both, 1 + max(i for i, _ in sums)
    vectors = 1 + max(j for _, j in sums)
    whole = k.builder.udiv(k.integer(tiles), k.integer(b.unroll))
    done = k.times(whole, b.unroll)
    rest = k.builder.sub(k.integer(tiles), k.integer(done))
    for start, count, unrolled in ((0, whole, b.unroll), (done, rest, 1)):
        with k.where(k.positive(count)), k.loop(count) as t:
            for j in range(unrolled):
                tile = k.sum((t, unrolled), start, j)
                row, column = k.at(y, (tile, right.width)), k.at(x, (tile, left.width))
                factors = [k.load(k.at(row, n * k.lanes)) for n in range(vectors)]
                for i in range(size):
                    add_products(k, sums, i, k.broadcast(k.at(column, i)), factors)
