"""Weights as tiles read them: [result / 32][channel / depth][matrix][half][depth / 2 pairs of
channels][16 results][2]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import I16, I32, Integer, KernelBuilder, pieces
from ..compiler.tiles import ROWS
from ..compiler.transpose import turn
from ..compiler.vectors import Vector
from .conv_tiles import BLOCK, PANEL, WIDTH, cut

# Lanes of two vectors of 16 numbers, in pairs.
PAIRS = ir.Constant(ir.VectorType(I32, BLOCK), [i for r in range(ROWS) for i in (r, ROWS + r)])
SHORTS, WORDS = ir.VectorType(I16, ROWS), ir.VectorType(I32, ROWS)


def pack(
    target: Target, dtype: str, sizes: tuple[int, int, int], depth: int, padded: int, turned: bool
) -> KernelBuilder:
    """Return the kernel that rounds and packs weights of `sizes` (outer, inner, matrices): w
    [outer][inner][matrix], packed. Results are the outer ones, channels the inner ones, or
    `turned` the other way round; channels are `padded` with zeros."""
    k = KernelBuilder(target, dtype, ("w", "packed"))
    room = k.room(WIDTH * BLOCK * BLOCK * sizes[2])
    packer = _Packer(k, sizes, padded // depth, turned, room)
    high, wide = (depth, BLOCK) if turned else (BLOCK, depth)
    for o, rows in cut(k, sizes[0], high):
        for i, columns in cut(k, sizes[1], wide):
            packer.gather(k.times(o, high), k.times(i, wide), rows, columns)
            packer.write(o, i, columns, depth // 2)
    return k


def pack_windows(
    target: Target, dtype: str, sizes: tuple[int, int, int], depth: int, padded: int
) -> KernelBuilder:
    """Return the kernel that packs weights of `sizes` for windows that lie side by side: channels
    are the inner ones of one matrix after the other."""
    outer, inner, matrices = sizes
    k = KernelBuilder(target, dtype, ("w", "packed"))
    room = k.room(WIDTH * BLOCK * inner * matrices)
    packer = _Packer(k, (outer, inner * matrices, 1), padded // depth, False, room)
    order = [c * matrices + index for index in range(matrices) for c in range(inner)]
    for o, rows in cut(k, outer, BLOCK):
        packer.gather(k.times(o, BLOCK), 0, rows, inner * matrices)
        packer.windows(o, depth, order)
    return k


class _Packer:
    """Packs a block of weights by way of `room`: [inner][matrix][32 outer ones] in bfloat16."""

    def __init__(
        self, k: KernelBuilder, sizes: tuple[int, int, int], many: int, turned: bool, room: Any
    ) -> None:
        self.k, self.turned, self.room = k, turned, room
        (_, self.inner, self.matrices), self.many = sizes, many
        self.narrow = k.on("bfloat16")

    def gather(self, outer: Integer, inner: Integer, rows: int, columns: int) -> None:
        """Bring a block to the room, a square of numbers at a time."""
        k, at = self.k, self.narrow.at
        line = self.inner * self.matrices
        w = k.at(k.arguments[0], (outer, line), (inner, self.matrices))
        for first, times, size in pieces(columns * self.matrices, ROWS):
            with k.loop(times) as i:
                column = k.sum((i, ROWS), first)
                for half in (0, 1):
                    lines = [
                        k.load(k.at(w, r * line, column), size) if r < rows else k.vector(0.0)
                        for r in range(half * ROWS, (half + 1) * ROWS)
                    ]
                    for c, value in enumerate(turn(k, lines)[:size]):
                        to = at(self.room, (column, BLOCK), c * BLOCK + half * ROWS)
                        self.narrow.store(value, to)

    def write(self, o: Integer, i: Integer, columns: int, pairs: int) -> None:
        """Write a block from the room."""
        k, at = self.k, self.narrow.at
        result, block = (i, o) if self.turned else (o, i)
        step = self.matrices * 2 * PANEL
        with k.loop(self.matrices) as index:
            to = at(k.arguments[1], (result, self.many * step), (block, step), (index, 2 * PANEL))
            for half in (0, 1):
                panel = at(to, half * PANEL)
                if self.turned:
                    self._turned(panel, index, half, columns - half * ROWS, pairs)
                else:
                    self._straight(panel, index, half, columns, pairs)

    def _straight(self, to: Any, index: Integer, half: int, columns: int, pairs: int) -> None:
        """Write pairs of inner ones, which are channels."""
        k, at, b = self.k, self.narrow.at, self.k.builder
        zeros = ir.Constant(SHORTS, [0] * ROWS)
        whole, odd = divmod(columns, 2)
        for first, times, both in ((0, whole, True), (whole, odd, False)):
            if times:
                with k.loop(times) as p:
                    pair = k.sum(p, first)
                    place = at(self.room, (pair, 2 * self.matrices * BLOCK), (index, BLOCK))
                    one = b.load(at(place, half * ROWS), align=2, typ=SHORTS)
                    other = at(place, self.matrices * BLOCK + half * ROWS)
                    two = b.load(other, align=2, typ=SHORTS) if both else zeros
                    b.store(b.shuffle_vector(one, two, PAIRS), at(to, (pair, BLOCK)), align=2)
        rest = pairs - whole - odd
        if rest:
            with k.loop(rest) as p:
                self.narrow.clear(at(to, (k.sum(p, whole + odd), BLOCK)), BLOCK)

    def windows(self, o: Integer, depth: int, order: Sequence[int]) -> None:
        """Write a block of results, whose channels stand in the room in another `order`."""
        k, at, b = self.k, self.narrow.at, self.k.builder
        to = at(k.arguments[1], (o, self.many * 2 * PANEL))

        def read(channel: int, half: int) -> Any:
            if channel >= len(order):
                return ir.Constant(SHORTS, [0] * ROWS)
            place = at(self.room, order[channel] * BLOCK + half * ROWS)
            return b.load(place, align=2, typ=SHORTS)

        for pair in range(self.many * depth // 2):
            block, row = divmod(pair, depth // 2)
            for half in (0, 1):
                both = b.shuffle_vector(read(2 * pair, half), read(2 * pair + 1, half), PAIRS)
                b.store(both, at(to, (2 * block + half) * PANEL + row * BLOCK), align=2)

    def _turned(self, to: Any, index: Integer, half: int, columns: int, pairs: int) -> None:
        """Write pairs of outer ones, which are channels; inner ones are results."""
        k, at, b = self.k, self.narrow.at, self.k.builder
        lines = []
        for c in range(ROWS):
            words = ir.Constant(WORDS, [0] * ROWS)
            if c < columns:
                place = (half * ROWS + c) * self.matrices * BLOCK
                words = b.load(at(self.room, place, (index, BLOCK)), align=2, typ=WORDS)
            lines.append(Vector(k, b.bitcast(words, k.wide)))
        for p, value in enumerate(turn(k, lines)[:pairs]):
            b.store(b.bitcast(value.value, WORDS), at(to, p * BLOCK), align=2)
