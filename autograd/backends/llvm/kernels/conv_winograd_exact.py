"""Tiles of Winograd's method that are computed once more, directly.

Its transforms spread a number that is not finite over the whole tile: next to an infinity or a NaN,
results would be lost that do not depend on it. A few results of a tile tell whether there is such a
number; then the tile is summed up tap by tap. The code for it is short rather than fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from itertools import product
from math import nan
from operator import add
from typing import Any, NamedTuple

from ..compiler.language import Integer, KernelBuilder, Term
from ..compiler.vectors import Variable
from .border import Border, Pair
from .conv_winograd_transforms import Grid, Matrix, witnesses

Values = dict[Pair, Variable]


class Filters(NamedTuple):
    """Weights as the caller has them, in any order of axes."""

    w: Any  # address
    channel: int  # numbers from one channel to the next
    result: int  # numbers from one result to the next
    tap: int  # numbers from one tap to the next, -1 for opposite order
    taps: int  # rows and columns of a filter

    @classmethod
    def of(cls, w: Any, sizes: Pair, taps: int, turned: bool, opposite: bool) -> Filters:
        """Return those of so many channels and results: [result][channel][tap], or `turned`,
        [channel][result][tap]."""
        (channels, results), area = sizes, taps**2
        outer, inner = (results, 1) if turned else (1, channels)
        return cls(w, outer * area, inner * area, -1 if opposite else 1, taps)

    def at(
        self, k: KernelBuilder, channel: Integer, result: Integer, tap: tuple[Integer, Integer]
    ) -> Any:
        """Return the address of a weight; the last one of a filter comes first where taps are in
        opposite order."""
        down, right = tap
        last = self.taps**2 - 1 if self.tap < 0 else 0
        terms: list[Term] = [(channel, self.channel), (result, self.result)]
        return k.at(self.w, *terms, (down, self.taps * self.tap), (right, self.tap), last)


class Pixels(NamedTuple):
    """An image, and zeros to be read beyond it."""

    image: Any  # address
    zeros: Any  # address
    border: Border  # the part that tiles see
    start: tuple[Integer, Integer]  # pixel from which rows and columns are counted

    def at(self, k: KernelBuilder, position: tuple[Integer, Integer], channel: Integer) -> Any:
        """Return the address of a number."""
        wide, size = self.border.image[1], self.border.channels
        row, column = self._moved(k, position)
        at = k.at(self.image, (row, wide * size), (column, size), channel)
        return k.builder.select(self.inside(k, position), at, self.zeros)

    def inside(self, k: KernelBuilder, position: tuple[Integer, Integer]) -> Any:
        """Return a flag: whether the image has such a pixel."""
        return _both_below(k, self._moved(k, position), self.border.image)

    def _moved(
        self, k: KernelBuilder, position: tuple[Integer, Integer]
    ) -> tuple[Integer, Integer]:
        return k.sum(self.start[0], position[0]), k.sum(self.start[1], position[1])


def _both_below(k: KernelBuilder, position: tuple[Integer, Integer], sizes: Pair) -> Any:
    """Return a flag: whether both integers are among 0 .. size - 1."""
    # Without a sign, what is below 0 is a large number.
    flags = [
        k.builder.icmp_unsigned("<", k.integer(value), k.integer(size))
        for value, size in zip(position, sizes, strict=True)
    ]
    return k.builder.and_(*flags)


@contextmanager
def _each_tap(
    k: KernelBuilder, values: Values, channels: int, taps: int
) -> Iterator[tuple[Integer, Integer, Integer]]:
    """Loop over channels and taps, as long as they matter."""
    with k.loop(channels) as channel, _open(k, values), k.loop(taps) as i, k.loop(taps) as j:
        yield channel, i, j


def _open(k: KernelBuilder, values: Values) -> AbstractContextManager[None]:
    """Run the block unless all sums are NaN, and so will stay."""
    ended = reduce(k.builder.and_, [value.get().isnan() for value in values.values()])
    return k.where(k.any(k.builder.not_(ended)))


def checked(
    k: KernelBuilder, matrix: Matrix, results: Grid, size: int, directly: Callable[[Values], None]
) -> Grid:
    """Return what `interpolate` made of a tile, `size` numbers in each vector, or, where these are
    not finite, what `directly` adds to zeros."""
    few = witnesses(matrix)
    total = reduce(add, [results[a][b] for a, b in product(few, few)])
    values = {(a, b): k.variable(v) for a, row in enumerate(results) for b, v in enumerate(row)}
    # A number less itself is 0 but for those that are not finite.
    with k.where(k.any((total - total).isnan()), likely=False):
        for value in values.values():
            # Lanes that do not count begin as NaN, so that `_open` does not wait for them.
            value.set(k.select(k.mask(size), 0.0, nan))
        directly(values)
    return [[values[a, b].get() for b in range(len(row))] for a, row in enumerate(results)]


def correlated(
    k: KernelBuilder, pixels: Pixels, filters: Filters, channels: int, result: Integer, size: int
) -> Callable[[Values], None]:
    """Return what adds up a tile of a convolution, of some results."""

    def directly(values: Values) -> None:
        with _each_tap(k, values, channels, filters.taps) as (channel, i, j):
            at = filters.at(k, channel, result, (i, j))
            factor = k.gather(at, filters.result, size)
            for (a, b), total in values.items():
                number = k.broadcast(pixels.at(k, (k.sum(i, a), k.sum(j, b)), channel))
                total.set(k.fma(number, factor, total.get()))

    return directly


def spread_out(
    k: KernelBuilder, pixels: Pixels, filters: Filters, channels: int, result: Integer, size: int,
    outputs: int,
) -> Callable[[Values], None]:  # fmt: skip
    """Return what adds up all that a tile of outputs x outputs pixels gives to the image it saw."""

    def directly(values: Values) -> None:
        with _each_tap(k, values, channels, filters.taps) as (channel, i, j):
            at = filters.at(k, channel, result, (i, j))
            factor = k.gather(at, filters.result, size)
            for (a, b), total in values.items():
                position = k.builder.sub(k.integer(a), i), k.builder.sub(k.integer(b), j)
                within = _both_below(k, position, (outputs, outputs))
                # Not zeros times the factor, which need not be finite.
                there = k.builder.and_(within, pixels.inside(k, position))
                more = k.fma(k.broadcast(pixels.at(k, position, channel)), factor, total.get())
                total.set(k.select(there, more, total.get()))

    return directly


def weighed(
    k: KernelBuilder, pixels: Pixels, tops: Any, output: Pair, results: int, channel: Integer,
    images: Integer, size: int,
) -> Callable[[Values], None]:  # fmt: skip
    """Return what adds up the gradient of a filter's taps, of a channel and some results, over all
    pixels of all images; `tops` is where the first pixel's results are."""
    (high, wide), each = output, pixels.border.image[0] * pixels.border.image[1]

    def directly(values: Values) -> None:
        with k.loop(images) as n, k.loop(high) as e, _open(k, values), k.loop(wide) as f:
            at = (n, high * wide * results), (e, wide * results), (f, results)
            top = k.load(k.at(tops, *at), size)
            image = k.at(pixels.image, (n, each * pixels.border.channels))
            seen = pixels._replace(image=image)
            for (i, j), total in values.items():
                number = k.broadcast(seen.at(k, (k.sum(e, i), k.sum(f, j)), channel))
                total.set(k.fma(number, top, total.get()))

    return directly
