"""The gradient of x by the transposed Winograd method: tiles of dy are transformed, multiplied, and
transformed to all that they add to dx, where neighbours overlap.

Every step is the transpose of the convolution's own: dx = B [(G w) . (A dy)]. Where windows reach
little beyond the image, dy has fewer tiles than dx, and so this needs fewer products than the
convolution of dy with reversed weights. Loops and registers are those of `conv_winograd.py`; tiles
add up on a canvas in scratch memory, which is copied to dx with the epilogue.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from .conv_direct import chunks
from .conv_winograd import (
    BlockShape,
    DirectInputs,
    Plane,
    TileBlock,
    Winograd,
    blocks_of,
    factors,
    multiply,
    plane_of,
    planes,
)
from .conv_winograd_exact import Filters, checked, spread_out
from .conv_winograd_transforms import both, images, interpolate, values
from .epilogue import NOTHING, Epilogue, Tail

PIXELS = 4  # of the result, that are finished at once


def turned(c: Winograd) -> Winograd:
    """Return a convolution with channels and results exchanged: the shape of its products when
    they run backward."""
    return c._replace(channels=c.results, results=c.channels)


def reaches(c: Winograd) -> bool:
    """Tell whether the tiles of a convolution cover all of x."""
    ends = zip(c.border.start, c.border.size, c.image, strict=True)
    return all(first <= 0 and first + seen_here >= whole for first, seen_here, whole in ends)


def canvas(c: Winograd, plane: Plane) -> tuple[int, int, int]:
    """Return numbers from one image, row and pixel to the next of the memory where dx is summed:
    all that tiles reach, channels padded to vectors."""
    rows, columns = c.border.size
    return rows * columns * plane.width, columns * plane.width, plane.width


def convolve_back(
    target: Target, c: Winograd, b: BlockShape, epilogue: Epilogue = NOTHING
) -> KernelBuilder:
    """Return the kernel of the gradient of x of a convolution: dy, the weights, transformed ones
    [position][result][channel] with channels padded to vectors, dx, a row of zeros, memory for both
    planes and for a canvas, what the epilogue takes, number of images."""
    names = ("y", "w", "u", "x", "zeros", "v", "p", "canvas", *epilogue.pointers)
    k = KernelBuilder(target, c.dtype, names, ("count",))
    wide = k.computed()
    y, w, u, x, zeros, v, p, memory, *more, count = k.arguments
    each = prod(c.image) * c.channels
    tail = Tail(k, epilogue, more, each, c.channels) if any(epilogue) else None
    back = turned(c)
    left, right = planes(target, back, b)
    filters = Filters.of(w, (back.channels, back.results), c.taps, True, False)
    apart = canvas(c, right)
    for first, some in chunks(k, count, b.images):
        # Tiles overlap in what they saw of x, so they add up on a canvas before dx is written.
        _clear(wide, memory, k.times(some, apart[0] // k.lanes))
        for block in blocks_of(k, c, b, first, some):
            block.spread(values(c.size, c.outputs), y, zeros, c.tops, v, left)
            tiles = k.times(k.times(some, block.rows), c.grid[1])
            with k.loop(c.positions) as position:
                block.fetch_x(position, y, b, c.tops)
                ends = (
                    wide.at(v, (position, left.apart)),
                    wide.at(u, (position, factors(target, back).apart)),
                    wide.at(p, (position, right.apart)),
                )
                multiply(wide, back, b, (left, right), ends, tiles)
            _add(block, p, right, DirectInputs(y, zeros, filters), memory, apart)
        _copy_out(k, c, memory, apart, x, first, some, tail)
    return k


def _clear(k: KernelBuilder, memory: Any, vectors: Integer) -> None:
    with k.loop(vectors) as i:
        k.store(k.vector(0.0), k.at(memory, (i, k.lanes)))


def _add(
    block: TileBlock, source: Any, plane: Plane, direct: DirectInputs, memory: Any,
    apart: tuple[int, int, int],
) -> None:  # fmt: skip
    """Transform a plane back, and add each tile to what it saw of x."""
    k, wide, c, m, (image, row, pixel) = block.k, block.wide, block.c, block.c.outputs, apart
    for i, r, t, tile in block.tiles():
        tile_source = wide.at(source, (tile, plane.width))
        to = wide.at(memory, (i, image), (r, m * row), (t, m * pixel))
        pixels = block.pixels(direct, c.tops, i, r, t)
        for start, count, size in pieces(c.channels, k.lanes):
            with k.loop(count) as o:
                channel = k.sum((o, size), start)
                at, into = wide.at(tile_source, channel), wide.at(to, channel)
                products = plane_of(wide, c, plane, at)
                results = both(k, interpolate, images(c.size), products)
                again = spread_out(k, pixels, direct.filters, c.results, channel, size, m)
                results = checked(k, images(c.size), results, size, again)
                for a, line in enumerate(results):
                    for b, value in enumerate(line):
                        end = wide.at(into, a * row + b * pixel)
                        wide.store(wide.load(end) + value, end)


def _copy_out(
    k: KernelBuilder, c: Winograd, memory: Any, apart: tuple[int, int, int], x: Any, first: Integer,
    count: Integer, tail: Tail | None,
) -> None:  # fmt: skip
    """Copy what lies within the images, some pixels at a time, and do what follows."""
    wide, (h, w), (top, left), size = k.computed(), c.image, c.start, c.channels
    with k.loop(count) as i, k.loop(h) as row:
        image = k.sum(first, i)
        for begin, times, pixels in pieces(w, PIXELS):
            with k.loop(times) as j:
                column = k.sum((j, pixels), begin)
                source = wide.at(
                    memory, (i, apart[0]), (row, apart[1]), (column, apart[2]),
                    -top * apart[1] - left * apart[2],
                )  # fmt: skip
                terms = (row, w * size), (column, size)
                to, begins = k.at(x, (image, h * w * size), *terms), k.none(row, column)
                for start, vectors, width in pieces(size, k.lanes):
                    with k.loop(vectors) as o:
                        channel = k.sum((o, width), start)
                        results = {
                            (0, p): wide.load(wide.at(source, channel, p * apart[2]))
                            for p in range(pixels)
                        }
                        if tail is not None:
                            results = tail.finish(
                                results, image, (*terms, channel), lambda p: p[1] * size, channel,
                                width, begins,
                            )  # fmt: skip
                        for (_, p), value in results.items():
                            k.store(value, k.at(to, channel, p * size), width)
