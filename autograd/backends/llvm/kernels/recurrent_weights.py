"""The gradients of a recurrent layer's weights: dgates^T times the inputs and the previous states,
in one pass over all steps, which takes the sums of dgates (the bias) along.

Loops, from the outside: steps, chunks of rows of the batch, blocks of columns of the weights, tiles
of gates, the rows of a chunk. Sums of a tile stay in registers over a chunk, and are then added to
memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from .recurrent import WIDE, BatchRows, Factors, products, tile, vectors_of
from .sweep import sweep

# Rows of states that all tiles of gates use in turn, while the first level holds them; their
# products are added up before they are added to the sums so far.
CHUNK = 64


class Sums(NamedTuple):
    """Sizes of the gradient of the weights."""

    rows: int  # of a step
    gates: int  # numbers in a row of dgates
    size: int  # numbers in a state
    inputs: int  # numbers in an input
    apart: int  # numbers from one row of inputs to the next


def weights(target: Target, dtype: str, s: Sums) -> KernelBuilder:
    """Return the kernel that adds products of dgates with inputs to dw_ih (gates, inputs), with the
    states before to dw (gates, size), and sums of dgates to db; the call does some tiles of gates.
    It takes the steps, the first one and how far it is to the next, and the numbers between the
    inputs of two steps."""
    pointers = ("dgates", "x", "hs", "h", "dw_ih", "dw", "db")
    integers = ("first", "tiles", "others", "steps", "start", "way", "x_apart")
    k = KernelBuilder(target, dtype, pointers, integers)
    dgates, x, hs, h, dw_ih, dw, db, first, tiles, others, steps, start, way, apart = k.arguments
    gates = BatchRows(k, s.gates % tile(target), first, tiles, others)
    # Sums do not care for the order of steps; memory is read on and on.
    with k.loop(steps) as t:
        begins = k.builder.icmp_signed("==", k.integer(t), start)
        earlier = k.at(hs, (k.builder.sub(k.integer(t), way), s.rows * s.size))
        before = k.builder.select(begins, h, earlier)
        for top, count, depth in pieces(s.rows, CHUNK):
            with k.loop(count) as i:
                row = k.sum((i, depth), top)
                dy = k.at(dgates, (t, s.rows * s.gates), (row, s.gates))
                states = _Columns(k.at(before, (row, s.size)), s.size, s.size, dw)
                inputs = _Columns(k.at(x, (t, apart), (row, s.apart)), s.apart, s.inputs, dw_ih)
                factors = Factors(dy, 1, s.gates, None, 0)
                # The next chunk of dgates, which would otherwise arrive line by line.
                soon = k.at(dy, CHUNK * s.gates), s.gates
                _all_columns(k, gates, factors._replace(soon=soon), states, depth)
                _all_columns(k, gates, factors, inputs, depth)
                _add(k, s, dy, k.at(db, gates.first), depth, gates)
    return k


class _Columns(NamedTuple):
    """What dgates are multiplied by, and the sums of the products."""

    y: Any  # address
    apart: int  # numbers from one row to the next
    many: int  # numbers in a row
    dw: Any  # sums, (gates, many)


def _all_columns(
    k: KernelBuilder, gates: BatchRows, f: Factors, columns: _Columns, depth: int
) -> None:
    """Add `depth` products to all columns."""
    for begin, blocks, units in pieces(columns.many, WIDE * k.lanes):
        with k.loop(blocks) as j:
            unit = k.sum((j, units), begin)
            gates.each_tile(partial(_multiply, k, f, columns, depth, unit, units))


def _multiply(
    k: KernelBuilder, f: Factors, columns: _Columns, depth: int, unit: Integer, units: int,
    row: Integer, many: int,
) -> None:  # fmt: skip
    """Add `depth` products to some rows and columns of dw: at the end, so that rounding errors stay
    those of short sums."""
    y, apart, size, dw = columns
    at, vectors = k.sum((row, size), unit), vectors_of(k, units, 0)
    addresses = [[(k.at(dw, at, r * size + v), some) for v, some in vectors] for r in range(many)]
    totals = [[k.variable() for _ in line] for line in addresses]
    factors = f._replace(x=k.at(f.x, row), panel=k.at(y, unit), line=apart, some=vectors[-1][1])
    if f.soon:
        memory, further = f.soon
        factors = factors._replace(soon=(k.at(memory, row), further))
    products(k, factors, depth, totals)
    for line, into in zip(totals, addresses, strict=True):
        for total, (to, some) in zip(line, into, strict=True):
            k.store(k.load(to, some) + total.get(), to, some)


def _add(k: KernelBuilder, s: Sums, x: Any, db: Any, depth: int, gates: BatchRows) -> None:
    """Add `depth` rows of dgates to db."""

    def body(index: Integer, some: Integer | None) -> None:
        total, to = k.variable(), k.at(db, index)
        with k.loop(depth) as i:
            total.set(total.get() + k.load(k.at(x, gates.first, index, (i, s.gates)), some))
        k.store(k.load(to, some) + total.get(), to, some)

    sweep(k, gates.many(), body)
