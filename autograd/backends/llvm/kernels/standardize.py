"""Standardization row by row: layer norm and RMS norm.

Deviations are those from the mean of deviations from a row's first number: all of them are of the
size of the row's spread, so a mean far from zero costs no accuracy."""

from __future__ import annotations

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.vectors import Vector
from .rows import RowSum, sweep_blocks
from .sweep import sweep


def standardized(
    target: Target, dtype: str, eps: float, centered: bool, blocks: bool
) -> KernelBuilder:
    """Return the kernel of y = (x - mean) rate and rate = 1 / sqrt(var + eps): x, y, rates, number
    of rows and of columns. Unless `centered`, the mean is 0."""
    k = KernelBuilder(target, dtype, ("x", "y", "rates"), ("rows", "size"))
    x, y, rates, rows, size = k.arguments
    with k.loop(rows) as i:
        source, to = k.at(x, (i, size)), k.at(y, (i, size))
        first = k.broadcast(source) if centered else k.vector(0.0)
        count, sums, squares = k.number(size), RowSum(k, blocks), RowSum(k, blocks)

        def near(index: Integer, some: Integer | None) -> Vector:
            value = k.load(k.at(source, index), some)
            return value - first if centered else value

        middle = k.vector(0.0)
        if centered:
            sweep_blocks(
                k, size, blocks, lambda index, some: sums.add(near(index, some), some), sums
            )
            middle = sums.total() / count

        def off(index: Integer, some: Integer | None) -> Vector:
            return near(index, some) - middle if centered else near(index, some)

        def square(index: Integer, some: Integer | None) -> None:
            value = off(index, some)
            squares.add(value * value, some)

        sweep_blocks(k, size, blocks, square, squares)
        rate = 1.0 / k.sqrt(squares.total() / count + eps)
        sweep(
            k, size,
            lambda index, some: k.store(off(index, some) * rate, k.at(to, index), some),
        )  # fmt: skip
        k.store(rate, k.at(rates, i), 1)
    return k


def slope(target: Target, dtype: str, centered: bool, blocks: bool) -> KernelBuilder:
    """Return the kernel of dx = rate (dy - mean of dy - y mean of (dy y)): dy, y, rates, dx, number
    of rows and of columns. Unless `centered`, the mean of dy is left out."""
    k = KernelBuilder(target, dtype, ("dy", "y", "rates", "dx"), ("rows", "size"))
    dy, y, rates, dx, rows, size = k.arguments
    with k.loop(rows) as i:
        top, value, to = (k.at(p, (i, size)) for p in (dy, y, dx))
        sums, tilts = RowSum(k, blocks), RowSum(k, blocks)

        def both(index: Integer, some: Integer | None) -> None:
            d = k.load(k.at(top, index), some)
            sums.add(d, some)
            tilts.add(d * k.load(k.at(value, index), some), some)

        sweep_blocks(k, size, blocks, both, sums, tilts)
        count, rate = k.number(size), k.broadcast(k.at(rates, i))
        level, tilt = sums.total() / count, tilts.total() / count

        def body(index: Integer, some: Integer | None) -> None:
            d = k.load(k.at(top, index), some)
            d = d - level if centered else d
            part = k.load(k.at(value, index), some) * tilt
            k.store((d - part) * rate, k.at(to, index), some)

        sweep(k, size, body)
    return k
