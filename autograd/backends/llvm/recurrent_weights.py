"""The gradient of a recurrent layer's weights: dgates^T times the states before, in one pass over
both, which takes the sums of dgates along."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .flat import sweep
from .language import Integer, Kernel, pieces
from .recurrent_kernels import WIDE, Factors, Rows, products, tile, vectors_of
from .targets import Target

CHUNK = 64  # rows of states that all tiles of gates use in turn, while the first level holds them


class Sums(NamedTuple):
    """Rows to sum over, numbers in a row of dgates and in a state."""

    rows: int
    gates: int
    size: int


def weights(target: Target, dtype: str, s: Sums) -> Kernel:
    """Return the kernel that adds products of dgates and states to dw (gates, size) and sums of
    dgates to db; the call does some tiles of gates."""
    k = Kernel(target, dtype, ("dgates", "states", "dw", "db"), ("first", "tiles", "others"))
    dgates, states, dw, db, *which = k.arguments
    gates = Rows(k, s.gates % tile(target), *which)
    for top, count, depth in pieces(s.rows, CHUNK):
        with k.loop(count) as i:
            x = k.at(dgates, (i, depth * s.gates), top * s.gates)
            y = k.at(states, (i, depth * s.size), top * s.size)
            for begin, blocks, units in pieces(s.size, WIDE * k.lanes):
                with k.loop(blocks) as j:
                    unit = k.sum((j, units), begin)
                    gates.each_tile(partial(_multiply, k, s, (x, y, dw), depth, unit, units))
            _add(k, s, x, k.at(db, gates.first), depth, gates)
    return k


def _multiply(
    k: Kernel, s: Sums, arrays: tuple[Any, Any, Any], depth: int, unit: Integer, units: int,
    row: Integer, many: int,
) -> None:  # fmt: skip
    """Add `depth` products to some rows and columns of dw."""
    x, y, dw = arrays
    at, vectors = k.sum((row, s.size), unit), vectors_of(k, units, 0)
    places = [[(k.at(dw, at, r * s.size + v), some) for v, some in vectors] for r in range(many)]
    totals = [[k.variable(k.load(*place)) for place in line] for line in places]
    factors = Factors(
        k.at(x, row), 1, s.gates, k.at(y, unit), s.size, vectors[-1][1], ahead=CHUNK
    )
    products(k, factors, depth, totals)
    for line, into in zip(totals, places, strict=True):
        for total, place in zip(line, into, strict=True):
            k.store(total.get(), *place)


def _add(k: Kernel, s: Sums, x: Any, db: Any, depth: int, gates: Rows) -> None:
    """Add `depth` rows of dgates to db."""

    def body(place: Integer, some: Integer | None) -> None:
        total = k.variable(k.load(k.at(db, place), some))
        with k.loop(depth) as i:
            total.set(total.get() + k.load(k.at(x, gates.first, place, (i, s.gates)), some))
        k.store(total.get(), k.at(db, place), some)

    sweep(k, gates.many(), body)
