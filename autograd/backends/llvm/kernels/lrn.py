"""Local response normalisation: x over a power of a sum of squares of neighbouring channels.

For STRIP pixels at a time, a first body writes what windows add up to a scratch row with zeros on
both sides, so that no window asks where channels end; a second body sums the windows with unaligned
loads and writes the results.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, TypeAlias

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.mathematics import exp, log
from ..compiler.vectors import Vector

# Rows between writing the numbers that windows add up and reading them, at other places than they
# were written: read at once, they would not have arrived.
STRIP = 8  # that a body does before the next one
MOST = 4  # powers of quarters up to this are products of roots
# Gets a place in the arrays, the place in the room where its window starts, and how many numbers
# count there; None for a whole vector.
Body: TypeAlias = Callable[[Integer, Integer, "int | None"], None]


class LrnRows(NamedTuple):
    """Rows of channels, and the windows over them."""

    dtype: str
    channels: int
    before: int  # neighbours of a window in lower channels
    after: int  # neighbours in higher channels

    def room(self, lanes: int) -> int:
        """Return how many numbers a row takes with zeros around."""
        return self.before + -(-self.channels // lanes) * lanes + self.after


def _swept(k: KernelBuilder, rows: LrnRows, count: Integer, bodies: tuple[Body, ...]) -> None:
    """Write down each body for all channels of STRIP rows, and all for the next rows, and so on."""
    # A window spans channels of a row, so the first body must end a row before the next begins it.
    span = rows.room(k.lanes)
    with k.loop(k.builder.udiv(k.sum(count, STRIP - 1), k.integer(STRIP))) as group:
        first = k.times(group, STRIP)
        some = k.least(STRIP, k.builder.sub(count, first))
        for body in bodies:
            with k.loop(some) as i:
                for start, times, size in pieces(rows.channels, k.lanes):
                    with k.loop(times) as j:
                        c = k.sum(start, (j, size))
                        index = k.sum((first, rows.channels), (i, rows.channels), c)
                        body(index, k.sum((i, span), c), size if size < k.lanes else None)


def _window(k: KernelBuilder, rows: LrnRows, start: Any) -> Vector:
    """Return the sums of the windows that start at an address and behind."""
    sum = k.variable()
    for first, times, step in pieces(rows.before + 1 + rows.after, 8):
        with k.loop(times) as j:
            for d in range(step):
                sum.set(sum.get() + k.load(k.at(start, (j, step), first + d)))
    return sum.get()


def _power(k: KernelBuilder, s: Vector, exponent: float) -> Vector:
    """Return s^exponent, of a number that is not negative: by roots for quarters."""
    quarters = 4 * exponent
    if quarters != int(quarters) or exponent > MOST:
        return exp(k, exponent * log(k, s))
    whole, rest = divmod(int(quarters), 4)
    root = k.sqrt(s)
    # The usual beta of 0.75 takes two square roots and a product, far less than exp and log.
    factors = [s] * whole + [root] * (rest // 2) + [k.sqrt(root)] * (rest % 2)
    return prod(factors, start=k.vector(1.0))


def _lowered(k: KernelBuilder, x: Vector, s: Vector, beta: float) -> Vector:
    """Return x s^-beta."""
    return x / _power(k, s, beta) if beta > 0 else x * _power(k, s, -beta)


def forward(
    target: Target, rows: LrnRows, factor: float, beta: float, constant: float
) -> KernelBuilder:
    """Return the kernel of y and s = constant + factor times the sum of squares: x, y, s, room of
    zeros, number of rows."""
    k = KernelBuilder(target, rows.dtype, ("x", "y", "s", "room"), ("count",))
    x, y, s, room, count = k.arguments

    def square(index: Integer, window: Integer, some: int | None) -> None:
        value = k.load(k.at(x, index), some)
        k.store(value * value, k.at(room, window, rows.before), some)

    def divide(index: Integer, window: Integer, some: int | None) -> None:
        sum = k.fma(_window(k, rows, k.at(room, window)), factor, constant)
        k.store(sum, k.at(s, index), some)
        k.store(_lowered(k, k.load(k.at(x, index), some), sum, beta), k.at(y, index), some)

    _swept(k, rows, count, (square, divide))
    return k


def backward(target: Target, rows: LrnRows, factor: float, beta: float) -> KernelBuilder:
    """Return the kernel of dx = dy s^-beta - factor x times the sum of dy x s^(-beta - 1): dy, x,
    s, dx, room of zeros, number of rows."""
    k = KernelBuilder(target, rows.dtype, ("dy", "x", "s", "dx", "room"), ("count",))
    dy, x, s, dx, room, count = k.arguments

    def slope(index: Integer, window: Integer, some: int | None) -> None:
        top, value, sum = (k.load(k.at(p, index), some) for p in (dy, x, s))
        share = _lowered(k, top, sum, beta)
        k.store(share, k.at(dx, index), some)
        k.store(share * value / sum, k.at(room, window, rows.before), some)

    def less(index: Integer, window: Integer, some: int | None) -> None:
        to, value = k.at(dx, index), k.load(k.at(x, index), some)
        wide = _window(k, rows, k.at(room, window))
        k.store(k.load(to, some) - wide * value * factor, to, some)

    _swept(k, rows, count, (slope, less))
    return k
