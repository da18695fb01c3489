"""Sums over the rows of a matrix: some vectors of columns stay in registers while the rows of a
block run; blocks are added up in float64."""

from __future__ import annotations

from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from .sweep import parts_of, sweep


def column_sums(target: Target, dtype: str, vectors: int) -> KernelBuilder:
    """Return the kernel of sums over the rows of a matrix whose last row may be incomplete: matrix,
    sums in float64, number of elements, of columns, of rows in a block. Sums run in the arrays'
    type over a block, and in float64 from block to block."""
    k = KernelBuilder(target, dtype, ("x", "y"), ("count", "columns", "block"))
    x, y, count, columns, block = k.arguments
    d = k.doubles()
    rows = k.builder.udiv(count, columns)
    last = k.builder.sub(count, k.times(rows, columns))
    beyond = k.at(x, (rows, columns))

    def start(index: Integer, some: Integer | None) -> None:
        # Beyond the incomplete row the mask is empty: these sums start with 0.
        there = k.load(k.at(beyond, index), k.builder.sub(last, k.integer(index)))
        d.store(d.convert(there), d.at(y, index), some)

    sweep(k, columns, start, unroll=1)
    with k.where(k.positive(rows)), k.loop(parts_of(k, rows, block)) as i:
        first = k.times(i, block)
        top, high = k.at(x, (first, columns)), k.least(block, k.builder.sub(rows, first))
        _add_block(k, d, top, y, high, columns, vectors)
    return k


def grid_sums(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of exact sums of squares, rounded by two grids, in a vector of float64
    each: x, grids in float64, sums, number of elements."""
    k = KernelBuilder(target, dtype, ("x", "grids", "sums"), ("count",))
    x, grids, sums, count = k.arguments
    d = k.doubles()
    pairs = [(d.broadcast(d.at(grids, i)), d.variable()) for i in range(2)]

    def body(index: Integer, some: Integer | None) -> None:
        number = d.convert(k.load(k.at(x, index), some))
        rest = number * number
        for grid, total in pairs:
            rounded = (rest + grid) - grid
            total.set(total.get() + rounded)
            rest = rest - rounded

    sweep(k, count, body)
    for i, (_, total) in enumerate(pairs):
        d.store(total.get(), d.at(sums, i * d.lanes))
    return k


def _add_block(
    k: KernelBuilder, d: KernelBuilder, top: Any, y: Any, high: Integer, columns: Integer,
    vectors: int,
) -> None:  # fmt: skip
    """Add the sums over `high` rows from `top` on to y: several vectors of columns at a time, as
    one sum alone would wait for itself in each row, then the last columns one by one."""
    width = vectors * k.lanes

    def chunk(first: Integer, counts: list[Integer | None]) -> None:
        starts = [k.sum(first, v * k.lanes) for v in range(len(counts))]
        sums = [k.variable() for _ in counts]
        with k.loop(high) as j:
            row = k.at(top, (j, columns))
            for total, at, some in zip(sums, starts, counts, strict=True):
                total.set(total.get() + k.load(k.at(row, at), some))
        for total, at, some in zip(sums, starts, counts, strict=True):
            to = d.at(y, at)
            d.store(d.load(to, some) + d.convert(total.get()), to, some)

    whole = k.builder.udiv(columns, k.integer(width))
    with k.where(k.positive(whole)), k.loop(whole) as j:
        chunk(k.times(j, width), [None] * vectors)
    done = k.times(whole, width)
    rest = k.builder.sub(columns, done)
    with k.where(k.positive(rest)), k.loop(parts_of(k, rest, k.lanes)) as j:
        chunk(k.sum(done, (j, k.lanes)), [k.builder.sub(rest, k.times(j, k.lanes))])
