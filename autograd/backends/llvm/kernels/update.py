"""Kernels that change arrays in place, each in one sweep: the optimizer's step, moving averages;
and transposed copies, for gradients that lie in another order than their slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.transpose import turn
from ..compiler.vectors import Vector
from .sweep import sweep


class UpdateBuilder:
    """Writes down the kernel of an update: arrays, weights first, a narrow copy of these if it
    `has_narrow`, numbers, number of elements. `k` reads and writes arrays, and computes."""

    def __init__(self, target: Target, dtype: str, names: Sequence[str], has_narrow: bool) -> None:
        kind, pointers = dtype, (*names, "settings")
        if has_narrow:
            kind, pointers = "bfloat16", (*names, "narrow", "settings")
        # Nothing keeps callers from passing one array twice. Each vector is read before it is
        # written, so the result is that of separate arrays as long as LLVM does not move a read
        # behind a write.
        self.kernel = KernelBuilder(target, kind, pointers, ("count",), aliases=names)
        self.wide = self.kernel.computed()
        self.k = self.wide if has_narrow else self.kernel
        *self.arrays, self.settings, self.count = self.kernel.arguments
        self.narrow = self.arrays.pop() if has_narrow else None

    def numbers(self, size: int) -> list[Vector]:
        """Return vectors of the numbers."""
        return [self.wide.broadcast(self.wide.at(self.settings, i)) for i in range(size)]

    def store(self, weights: Vector, index: Integer, some: Integer | None) -> None:
        """Write new weights, and rounded ones to the copy."""
        self.k.store(weights, self.k.at(self.arrays[0], index), some)
        if self.narrow is not None:
            rounded = self.kernel.convert(weights)
            self.kernel.store(rounded, self.kernel.at(self.narrow, index), some)


def descend(
    target: Target, dtype: str, momentum: bool, weight_decay: bool, nesterov: bool, has_narrow: bool
) -> KernelBuilder:
    """Return the kernel of a step of gradient descent: w, g, v, a narrow copy of w if it
    `has_narrow`, (lr, momentum, 1 - dampening, weight decay), number of elements."""
    update = UpdateBuilder(target, dtype, ("w", "g", "v"), has_narrow)
    k, (w, g, v), (rate, keep, gain, decay) = update.k, update.arrays, update.numbers(4)

    def body(index: Integer, some: Integer | None) -> None:
        weight, d = k.load(k.at(w, index), some), k.load(k.at(g, index), some)
        if weight_decay:
            d = d + decay * weight
        if momentum:
            to = k.at(v, index)
            speed = keep * k.load(to, some) + gain * d
            k.store(speed, to, some)
            d = d + keep * speed if nesterov else speed
        update.store(weight - rate * d, index, some)

    sweep(k, update.count, body)
    return update.kernel


def averaged(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of x = x + rate (factor y - x): x, y, rate, factor, number of elements."""
    names = ("x", "y", "rate", "factor")
    k = KernelBuilder(target, dtype, names, ("count",), aliases=("x", "y"))
    wide, (x, y, rate, factor, count) = k.computed(), k.arguments
    share, gain = wide.broadcast(rate), wide.broadcast(factor)

    def body(index: Integer, some: Integer | None) -> None:
        to = k.at(x, index)
        old, new = k.load(to, some), k.load(k.at(y, index), some) * gain
        k.store(old + share * (new - old), to, some)

    sweep(k, count, body)
    return k


def turned_copy(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of y[row, column] = x[offsets[column] + row]: x, offsets, y, number of rows
    and of columns. It moves squares of as many numbers as a vector holds, both ways."""
    k = KernelBuilder(target, dtype, ("x", "offsets", "y"), ("rows", "columns"))
    x, offsets, y, rows, columns = k.arguments
    across, down = (
        k.builder.udiv(k.sum(size, k.lanes - 1), k.integer(k.lanes)) for size in (columns, rows)
    )
    with k.loop(down) as i, k.loop(across) as j:
        row, column = k.times(i, k.lanes), k.times(j, k.lanes)
        high, wide = k.builder.sub(rows, row), k.builder.sub(columns, column)
        to = k.at(y, (row, columns), column)
        last = k.builder.sub(columns, k.integer(1))
        # Beyond the last column the last one is read again: the table has no offset there, and the
        # mask of the store leaves the numbers out.
        lines = [k.least(k.sum(column, lane), last) for lane in range(k.lanes)]
        sources = [k.at(x, k.read(offsets, line), row) for line in lines]
        fits = k.builder.and_(*(k.positive(k.sum(size, 1 - k.lanes)) for size in (high, wide)))
        with k.builder.if_else(fits) as (inside, edge):
            with inside:
                _square(k, [k.load(s) for s in sources], to, columns)
            with edge:
                _square(k, [k.load(s, high) for s in sources], to, columns, high, wide)
    return k


def _square(
    k: KernelBuilder, lines: list[Vector], to: Any, columns: Integer, high: Any = None,
    wide: Any = None,
) -> None:  # fmt: skip
    """Write a square of numbers, the other way round; `high` rows of `wide` at its edges."""
    for lane, line in enumerate(turn(k, lines)):
        address = k.at(to, (lane, columns))
        if high is None:
            k.store(line, address)
        else:
            with k.where(k.positive(k.sum(high, -lane))):
                k.store(line, address, wide)
