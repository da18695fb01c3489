"""Numbers of bfloat16 moved as they are: words hold two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.ir as ir

from ..compiler.language import I1, I16, I32, KernelBuilder
from ..compiler.tiles import ROWS, WORDS
from ..compiler.transpose import turn
from ..compiler.vectors import Vector

WIDTH = 2  # bytes of a number
NUMBERS = ir.VectorType(I16, 2 * ROWS)
# Of two vectors of numbers, the first 16 or the last ones, in pairs.
PAIRS = [
    ir.Constant(ir.VectorType(I32, 2 * ROWS), [i for r in lanes for i in (r, r + 2 * ROWS)])
    for lanes in (range(ROWS), range(ROWS, 2 * ROWS))
]


def load(k: KernelBuilder, pointer: Any, count: int = 2 * ROWS) -> Any:
    """Return words of up to 32 numbers, zeros behind; memory behind them is not touched."""
    if not count:
        return _same(0)
    if count == 2 * ROWS:
        return k.builder.load(pointer, align=WIDTH, typ=WORDS)
    mask = ir.Constant(ir.VectorType(I1, 2 * ROWS), [i < count for i in range(2 * ROWS)])
    values = [pointer, I32(WIDTH), mask, ir.Constant(NUMBERS, [0] * 2 * ROWS)]
    numbers = k._call("llvm.masked.load.v32i16.p0", NUMBERS, values)
    return k.builder.bitcast(numbers, WORDS)


def store(k: KernelBuilder, words: Any, pointer: Any) -> None:
    """Write words."""
    k.builder.store(words, pointer, align=WIDTH)


def square(k: KernelBuilder, lines: Sequence[Any]) -> list[Any]:
    """Return the transpose of 16 vectors of words."""
    vectors = [Vector(k, k.builder.bitcast(words, k.wide)) for words in lines]
    return [k.builder.bitcast(vector.value, WORDS) for vector in turn(k, vectors)]


def meet(k: KernelBuilder, low: Any, high: Any, half: int) -> Any:
    """Return words of the first numbers of words, or of their second ones (`half` 1)."""
    b, up = k.builder, _same(16)
    if half:
        return b.or_(b.lshr(low, up), b.and_(high, _same(0xFFFF0000)))
    return b.or_(b.and_(low, _same(0xFFFF)), b.shl(high, up))


def paired(k: KernelBuilder, one: Any, two: Any) -> list[Any]:
    """Return words of a number of each of two vectors: of the first 16, and of the others."""
    numbers = [k.builder.bitcast(words, NUMBERS) for words in (one, two)]
    whole = [k.builder.shuffle_vector(*numbers, order) for order in PAIRS]
    return [k.builder.bitcast(value, WORDS) for value in whole]


def _same(number: int) -> Any:
    return ir.Constant(WORDS, [number] * ROWS)
