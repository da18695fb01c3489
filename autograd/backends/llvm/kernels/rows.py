"""Sums over rows of numbers, of a kernel that works row by row.

They stay in one vector register in the arrays' type; beyond BLOCK columns they are added up in
float64 from block to block, so that rounding errors do not grow with the columns."""

from __future__ import annotations

from ..compiler.language import Integer, KernelBuilder
from ..compiler.mathematics import total
from ..compiler.vectors import Vector
from .sweep import Body, parts_of, sweep

BLOCK = 1 << 10  # columns whose sums run in the arrays' type


class RowSum:
    """A sum over a row: in the arrays' type over a block of columns, in float64 over blocks, where
    there are several."""

    def __init__(self, k: KernelBuilder, blocks: bool) -> None:
        self._k, self._wide, self._many = k, k.doubles(), blocks
        self._part, self._blocks = k.variable(), self._wide.variable()

    def add(self, x: Vector, some: Integer | None) -> None:
        """Add what is there of a vector."""
        x = x if some is None else self._k.select(self._k.mask(some), x, 0.0)
        self._part.set(self._part.get() + x)

    def end_block(self) -> None:
        """Add up what a block came to."""
        self._blocks.set(self._blocks.get() + self._wide.convert(self._part.get()))
        self._part.set(self._k.vector(0.0))

    def total(self) -> Vector:
        """Return the sum, in all lanes."""
        sums = self._blocks if self._many else self._part
        return total(self._k, self._k.convert(sums.get()))


def sweep_blocks(k: KernelBuilder, size: Integer, blocks: bool, body: Body, *sums: RowSum) -> None:
    """Write down `body` for all places of a row, with what adds up sums in blocks."""
    if not blocks:
        return sweep(k, size, body)
    with k.loop(parts_of(k, size, BLOCK)) as i:
        start = k.times(i, BLOCK)
        count = k.least(BLOCK, k.builder.sub(k.integer(size), k.integer(start)))
        sweep(k, count, lambda index, some: body(k.sum(start, index), some))
        for sum in sums:
            sum.end_block()
