"""Weights as tiles read them: [result / 32][channel / depth][matrix][half][depth / 2 pairs of
channels][16 results][2]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.tiles import ROWS
from .conv_tiles import BLOCK, PANEL, cut
from .shorts import WIDTH, load, meet, paired, square, store


def pack(
    target: Target, sizes: tuple[int, int, int], depth: int, padded: int, turned: bool
) -> KernelBuilder:
    """Return the kernel that packs weights of `sizes` (outer, inner, matrices): w
    [outer][inner][matrix], packed. Results are the outer ones, channels the inner ones, or
    `turned` the other way round; channels are `padded` with zeros."""
    k = KernelBuilder(target, "bfloat16", ("w", "packed"))
    packer = _Packer(k, sizes, padded // depth, turned)
    high, wide = (depth, BLOCK) if turned else (BLOCK, depth)
    for o, rows in cut(k, sizes[0], high):
        for i, columns in cut(k, sizes[1], wide):
            packer.block((o, high), (i, wide), (rows, columns), depth // 2)
    return k


def pack_windows(
    target: Target, sizes: tuple[int, int, int], depth: int, padded: int
) -> KernelBuilder:
    """Return the kernel that packs weights of `sizes` for windows that lie side by side: channels
    are the inner ones of one matrix after the other."""
    outer, inner, matrices = sizes
    k = KernelBuilder(target, "bfloat16", ("w", "packed"))
    packer = _Packer(k, (outer, inner * matrices, 1), padded // depth, False)
    order = [c * matrices + index for index in range(matrices) for c in range(inner)]
    for o, rows in cut(k, outer, BLOCK):
        packer.windows(o, rows, depth, order)
    return k


class _Packer:
    """Packs weights, a block at a time. Words hold numbers of two outer ones: of neighbours, where
    these are channels, else of two that are 16 apart."""

    def __init__(
        self, k: KernelBuilder, sizes: tuple[int, int, int], many: int, turned: bool
    ) -> None:
        self.k, self.many, self.turned = k, many, turned
        _, self.inner, self.matrices = sizes
        self.line = self.inner * self.matrices  # numbers from an outer one to the next
        self.room: Any = None  # [inner][matrix][16 words]

    def block(
        self, outer: tuple[Integer, int], inner: tuple[Integer, int], sizes: tuple[int, int],
        pairs: int,
    ) -> None:  # fmt: skip
        """Pack a block of `sizes` (outer, inner); `outer` and `inner`: its number, and the size of
        whole ones."""
        k = self.k
        (o, high), (i, wide) = outer, inner
        result, block = (i, o) if self.turned else (o, i)
        w = k.at(k.arguments[0], (o, high * self.line), (i, wide * self.matrices))
        step = self.matrices * 2 * PANEL
        to = k.at(k.arguments[1], (result, self.many * step), (block, step))
        if self.matrices == 1:
            (self._rows if self.turned else self._columns)(w, to, sizes, pairs)
            return
        self._gather(w, sizes[0], sizes[1] * self.matrices)
        with k.loop(self.matrices) as index:
            panels = k.at(to, (index, 2 * PANEL))
            (self._turned if self.turned else self._straight)(panels, index, sizes[1], pairs)

    def windows(self, o: Integer, rows: int, depth: int, order: Sequence[int]) -> None:
        """Pack a block of results, whose channels stand in another `order`."""
        k = self.k
        self._gather(k.at(k.arguments[0], (o, BLOCK * self.line)), rows, self.inner)
        to = k.at(k.arguments[1], (o, self.many * 2 * PANEL))
        for pair in range(self.many * depth // 2):
            block, row = divmod(pair, depth // 2)
            one, two = (
                self._read(c < len(order), order[min(c, len(order) - 1)])
                for c in (2 * pair, 2 * pair + 1)
            )
            self._write(one, two, k.at(to, block * 2 * PANEL + row * BLOCK))

    def _gather(self, w: Any, rows: int, numbers: int) -> None:
        """Bring so many numbers of outer ones to the room, a square of words at a time."""
        k = self.k
        self.room = self.room or k.room(WIDTH * BLOCK * numbers)  # the first block is the largest
        step, apart = (2, 1) if self.turned else (1, ROWS)
        for first, times, size in pieces(numbers, BLOCK):
            with k.loop(times) as i:
                number = k.sum((i, BLOCK), first)
                low, high = (
                    self._square(k.at(w, number), rows, size, step, half * apart) for half in (0, 1)
                )
                for c in range(size):
                    value = meet(k, low[c // 2], high[c // 2], c % 2)
                    store(k, value, k.at(self.room, (number, BLOCK), c * BLOCK))

    def _square(self, w: Any, rows: int, size: int, step: int, first: int) -> list[Any]:
        """Return words of 16 of the `rows` outer ones, `step` apart, turned round: of each two of
        `size` numbers."""
        outer = range(first, first + ROWS * step, step)
        lines = [load(self.k, self.k.at(w, r * self.line), size * (r < rows)) for r in outer]
        return square(self.k, lines)

    def _columns(self, w: Any, to: Any, sizes: tuple[int, int], pairs: int) -> None:
        """Pack outer ones that are results, whose channels lie in pairs as they are."""
        for half in (0, 1):
            words = self._square(w, sizes[0], sizes[1], 1, half * ROWS)
            for p in range(pairs):
                store(self.k, words[p], self.k.at(to, half * PANEL + p * BLOCK))

    def _rows(self, w: Any, to: Any, sizes: tuple[int, int], pairs: int) -> None:
        """Pack outer ones that are channels, two of which lie one above the other."""
        k, (rows, columns) = self.k, sizes
        for pair, count in self._pairs(rows, pairs):
            one, two = (
                load(k, k.at(w, (pair, 2 * self.line), j * self.line), columns * (j < count))
                for j in (0, 1)
            )
            for half, words in enumerate(paired(k, one, two)):
                store(k, words, k.at(to, half * PANEL, (pair, BLOCK)))

    def _straight(self, to: Any, index: Integer, columns: int, pairs: int) -> None:
        """Write pairs of inner ones, which are channels."""
        for pair, count in self._pairs(columns, pairs):
            one, two = (
                self._read(j < count, (pair, 2 * self.matrices), j * self.matrices, index)
                for j in (0, 1)
            )
            self._write(one, two, self.k.at(to, (pair, BLOCK)))

    def _pairs(self, count: int, pairs: int) -> Iterator[tuple[Integer, int]]:
        """Loop over pairs of so many numbers: yield each, and how many of its two there are."""
        whole, odd = divmod(count, 2)
        for first, last, size in ((0, whole, 2), (whole, whole + odd, 1), (whole + odd, pairs, 0)):
            if last > first:
                with self.k.loop(last - first) as i:
                    yield self.k.sum(i, first), size

    def _turned(self, to: Any, index: Integer, columns: int, pairs: int) -> None:
        """Write pairs of outer ones, which are channels; inner ones are results."""
        for half in (0, 1):
            lines = [
                self._read(c < columns, c * self.matrices, index)
                for c in range(half * ROWS, (half + 1) * ROWS)
            ]
            for p, words in enumerate(square(self.k, lines)[:pairs]):
                store(self.k, words, self.k.at(to, half * PANEL + p * BLOCK))

    def _write(self, one: Any, two: Any, to: Any) -> None:
        """Write a pair of channels of 32 results, given as words of results that are 16 apart."""
        for half in (0, 1):
            store(self.k, meet(self.k, one, two, half), self.k.at(to, half * PANEL))

    def _read(self, is_there: bool, *number: Any) -> Any:
        """Return the words of a number in the room, zeros where it is not there."""
        terms = [(*t[:-1], t[-1] * BLOCK) if isinstance(t, tuple) else (t, BLOCK) for t in number]
        return load(self.k, self.k.at(self.room, *terms), BLOCK * is_there)
