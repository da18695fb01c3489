"""Softmax, its logarithm and cross entropy, row by row: a row has the numbers of all classes.

Each kernel sweeps a row some times: for the largest number, for powers and their sums, and for the
division."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.mathematics import exp, expm1, largest
from ..compiler.vectors import Vector
from .rows import RowSum, sweep_blocks
from .sweep import sweep


def _most(k: KernelBuilder, row: Any, size: Integer) -> Vector:
    """Return the largest number of a row."""
    most = k.variable(-np.inf)

    def body(index: Integer, some: Integer | None) -> None:
        x = k.load(k.at(row, index), some)
        x = x if some is None else k.select(k.mask(some), x, -np.inf)
        most.set(k.larger(most.get(), x))

    sweep(k, size, body)
    return largest(k, most.get())


def grown(
    target: Target, dtype: str, powers: bool, logarithm: bool, weighted: bool, blocks: bool
) -> KernelBuilder:
    """Return the kernel of a softmax before its division: x, y, weights, sums, number of rows and
    of columns. A row of y is x less its largest, or `powers` of e with that exponent; of each row,
    one after the other, sums get that of the powers (if a `logarithm` is taken, less 1 for the
    largest, beside which it would lose the small ones), the largest x and, if `weighted`, the sum
    of the exponents times weights."""
    k = KernelBuilder(target, dtype, ("x", "y", "w", "sums"), ("rows", "size"))
    x, y, w, sums, rows, size = k.arguments
    with k.loop(rows) as i:
        source, to = k.at(x, (i, size)), k.at(y, (i, size))
        most = _most(k, source, size)
        whole, inner, ones = (RowSum(k, blocks) for _ in range(3))

        def body(index: Integer, some: Integer | None) -> None:
            exponent = k.load(k.at(source, index), some) - most
            power = exp(k, exponent)
            if logarithm:
                top = exponent.equals(0.0)
                ones.add(k.select(top, 1.0, 0.0), some)
                whole.add(k.select(top, 0.0, power), some)
            else:
                whole.add(power, some)
            if weighted:
                inner.add(exponent * k.load(k.at(w, index), some), some)
            k.store(power if powers else exponent, k.at(to, index), some)

        sweep_blocks(k, size, blocks, body, whole, inner, ones)
        sum = whole.total()
        k.store(sum + (ones.total() - 1.0) if logarithm else sum, k.at(sums, i), 1)
        k.store(most, k.at(sums, rows, i), 1)
        if weighted:
            k.store(inner.total(), k.at(sums, rows, rows, i), 1)
    return k


def finished(target: Target, dtype: str, quotient: bool) -> KernelBuilder:
    """Return the kernel that divides each row by a number, or subtracts it: rows, numbers, number
    of rows and of columns."""
    k = KernelBuilder(target, dtype, ("y", "sums"), ("rows", "size"))
    y, sums, rows, size = k.arguments
    with k.loop(rows) as i:
        row, number = k.at(y, (i, size)), k.broadcast(k.at(sums, i))

        def body(index: Integer, some: Integer | None) -> None:
            to = k.at(row, index)
            value = k.load(to, some)
            k.store(value / number if quotient else value - number, to, some)

        sweep(k, size, body)
    return k


def slope(target: Target, dtype: str, logarithm: bool, blocks: bool) -> KernelBuilder:
    """Return the kernel of the gradient of a softmax, or of its logarithm: dy, y, dx, number of
    rows and of columns. A softmax's sum is taken twice, as by its reference."""
    k = KernelBuilder(target, dtype, ("dy", "y", "dx"), ("rows", "size"))
    dy, y, dx, rows, size = k.arguments
    with k.loop(rows) as i:
        top, value, to = (k.at(p, (i, size)) for p in (dy, y, dx))

        def summed(base: Vector) -> Vector:
            sum = RowSum(k, blocks)

            def body(index: Integer, some: Integer | None) -> None:
                d = k.load(k.at(top, index), some)
                part = d if logarithm else (d - base) * k.load(k.at(value, index), some)
                sum.add(part, some)

            sweep_blocks(k, size, blocks, body, sum)
            return sum.total()

        base = k.vector(0.0) if logarithm else summed(k.vector(0.0))
        whole = summed(base)

        def body(index: Integer, some: Integer | None) -> None:
            d, p = k.load(k.at(top, index), some), k.load(k.at(value, index), some)
            if logarithm:  # d (1 - e^p) - e^p (the sum of the others)
                result = 0.0 - k.fma(d, expm1(k, p), exp(k, p) * (whole - d))
            else:
                result = p * ((d - base) - whole)
            k.store(result, k.at(to, index), some)

        sweep(k, size, body)
    return k


def entropy_slope(target: Target, dtype: str, smooth: bool, blocks: bool) -> KernelBuilder:
    """Return the kernel of the gradient of a cross entropy: p, labels, weights, factors, dx, number
    of rows and of columns. Factors are what each row of p is multiplied with, what of that is
    multiplied with p - 1 at its label, and, if `smooth`, what is subtracted, times the weights,
    everywhere. p - 1 is what the others have: nothing is lost where p is nearly 1."""
    k = KernelBuilder(target, dtype, ("p", "labels", "w", "factors", "dx"), ("rows", "size"))
    p, labels, w, factors, dx, rows, size = k.arguments
    with k.loop(rows) as i:
        source, to = k.at(p, (i, size)), k.at(dx, (i, size))
        many, hit, soft = (
            k.broadcast(k.at(factors, (rows, j), i)) if j < 2 or smooth else k.vector(0.0)
            for j in range(3)
        )
        label, others = k.read(labels, i), RowSum(k, blocks)

        def body(index: Integer, some: Integer | None) -> None:
            value = k.load(k.at(source, index), some)
            before = k.builder.sub(label, k.integer(index))
            # The lanes before the label, and those up to it: they differ in the label's alone.
            here = k.builder.xor(k.mask(before), k.mask(k.sum(before, 1)))
            others.add(k.select(here, 0.0, value), some)
            result = value * many
            if smooth:
                result = result - soft * k.load(k.at(w, index), some)
            k.store(result, k.at(to, index), some)

        sweep_blocks(k, size, blocks, body, others)
        # After the sweep, when the sum of the others is known, which is 1 - p at the label.
        spot = k.at(to, label)
        result = k.load(spot, 1) - k.load(k.at(source, label), 1) * hit
        k.store(result - others.total() * hit, spot, 1)
    return k
