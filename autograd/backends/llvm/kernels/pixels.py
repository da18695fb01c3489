"""Images brought into the order that tiles read, [row][column][image][channel], and back; with the
numbers that windows see side by side, where pixels have few channels."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from .border import Pair
from .octets import octets

NEAR_IMAGES = 16  # images whose rows stay in the first-level cache


def _builder(
    target: Target, dtype: str, pointers: tuple[str, ...], integers: tuple[str, ...]
) -> KernelBuilder:
    """Return a kernel with addresses in numbers of a type, which may be 8-bit integers."""
    if not dtype.endswith("int8"):
        return KernelBuilder(target, dtype, pointers, integers)
    return octets(KernelBuilder(target, "float32", pointers, integers))


def swapped(target: Target, dtype: str, size: int) -> KernelBuilder:
    """Return the kernel of y[j, i] = x[i, j], pieces of `size` numbers: x, y, how many i and j."""
    k = _builder(target, dtype, ("x", "y"), ("rows", "columns"))
    x, y, rows, columns = k.arguments
    with k.loop(rows) as i, k.loop(columns) as j:
        source = k.at(x, (k.sum((i, columns), j), size))
        k.move(source, k.at(y, (k.sum((j, rows), i), size)), size)
    return k


class Windows(NamedTuple):
    """Windows of images, of which each is to be `width` numbers: those that its taps see, row by
    row, and zeros behind them and for what lies beyond the border."""

    images: int
    channels: int
    image: Pair
    output: Pair
    rows: tuple[int, ...]  # of the first window's taps, from the image's first row
    columns: tuple[int, ...]
    stride: Pair
    width: int

    def seen(self, f: int) -> tuple[int, ...]:
        """Return which columns of taps a window sees."""
        places = (f * self.stride[1] + c for c in self.columns)
        return tuple(i for i, p in enumerate(places) if 0 <= p < self.image[1])

    def pieces(self, seen: tuple[int, ...], pixel: int) -> list[tuple[int, int, int]]:
        """Return what to copy of a row of taps: from where in the image, whose pixels are so many
        numbers apart, to where in the window, how many numbers."""
        c = self.channels
        dense = pixel == c and [*self.columns] == [*range(self.columns[0], self.columns[-1] + 1)]
        if dense and seen:
            return [(self.columns[seen[0]] * c, seen[0] * c, len(seen) * c)]
        return [(self.columns[i] * pixel, i * c, c) for i in seen]


Apart: TypeAlias = tuple[int, int, int]  # numbers from an image, row and column to the next


def gathered(target: Target, dtype: str, w: Windows, apart: Apart) -> KernelBuilder:
    """Return the kernel that lays windows out as [row][column][image][width]: images, windows,
    first row, number of rows."""
    k = _builder(target, dtype, ("x", "y"), ("first", "rows"))
    x, y, start, rows = k.arguments
    with k.loop(rows) as i:
        e = k.sum(start, i)
        for before, times, count in pieces(w.images, NEAR_IMAGES):
            with k.loop(times) as several:
                first = k.sum((several, NEAR_IMAGES), before)
                for seen, group in groupby(range(w.output[1]), key=w.seen):
                    columns = [*group]
                    with k.loop(len(columns)) as j, k.loop(count) as one:
                        n, f = k.sum(first, one), k.sum(j, columns[0])
                        pixel = k.sum((e, w.output[1]), f)
                        to = k.at(y, (pixel, w.images * w.width), (n, w.width))
                        source = k.at(x, (n, apart[0]), (f, w.stride[1] * apart[2]))
                        _window(k, w, apart, source, to, e, seen)
    return k


def _window(
    k: KernelBuilder,
    w: Windows,
    apart: Apart,
    source: Any,
    to: Any,
    e: Integer,
    seen: tuple[int, ...],
) -> None:
    """Lay out a window of the row e of windows; `source` is the image's first row."""
    line = len(w.columns) * w.channels
    for row, down in enumerate(w.rows):
        at = k.integer(k.sum((e, w.stride[0]), down))
        inside = k.builder.icmp_unsigned("<", at, k.integer(w.image[0]))
        own = k.at(to, row * line)
        with k.builder.if_else(inside) as (there, beyond):
            with there:
                if len(seen) < len(w.columns):
                    k.clear(own, line)
                for begin, place, count in w.pieces(seen, apart[2]):
                    k.move(k.at(source, (at, apart[1]), begin), k.at(own, place), count)
            with beyond:
                k.clear(own, line)
    k.clear(k.at(to, len(w.rows) * line), w.width - len(w.rows) * line)
