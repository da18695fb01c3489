"""Squares of numbers transposed in registers, by shuffles of two vectors: log2(lanes) rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .language import KernelBuilder
from .vectors import Vector


def turn(k: KernelBuilder, vectors: Sequence[Vector]) -> list[Vector]:
    """Return the transpose of as many vectors as they have lanes. Blocks off the diagonal change
    places: of half the size, a quarter, and so on."""
    result, lanes = [*vectors], range(k.lanes)
    apart = k.lanes // 2
    while apart:
        low = [k.lanes + i - apart if i & apart else i for i in lanes]
        high = [k.lanes + i if i & apart else i + apart for i in lanes]
        for i in lanes:
            if not i & apart:
                a, b = result[i], result[i + apart]
                result[i], result[i + apart] = k.shuffle(a, b, low), k.shuffle(a, b, high)
        apart //= 2
    return result


def columns_of(k: KernelBuilder, pointer: Any, apart: int, rows: int, size: int) -> list[Vector]:
    """Return the first `size` columns of a matrix of `rows` rows, `apart` numbers from one to the
    next, as vectors of `rows` numbers with zeros behind; both at most as many as lanes."""
    vectors = [
        k.load(k.at(pointer, r * apart), size) if r < rows else k.vector(0.0)
        for r in range(k.lanes)
    ]
    return turn(k, vectors)[:size]
