"""NumPy's sums with small rounding errors, however many numbers there are.

`numpy.sum` adds pairwise only along the axis that is innermost in memory; along others it adds one
number after the other, so that 2^20 of them lose four digits in float32. Here these run over short
blocks, whose sums are added up in the same way: the error grows with the logarithm of the count.
How a sum is cut depends on shapes and strides alone."""

from __future__ import annotations

from math import frexp, inf, ldexp, prod

import numpy as np

from .array import NDArray

BLOCK = 64  # numbers that are added one after the other
WIDE = 512  # numbers in a row that is added: short rows would cost overhead


def sum_over(x: NDArray, axes: tuple[int, ...]) -> NDArray:
    """Return the sum of x over axes, which are sorted and non-negative, in x's own type."""
    if x.size <= BLOCK or _innermost(x, axes) or prod(x.shape[a] for a in axes) <= BLOCK:
        return np.asarray(x.sum(axes, dtype=x.dtype))
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    extents, reduced = _merged(x, order, axes)
    y = x.transpose(order).reshape(extents)
    for i in reversed(range(len(extents))):
        if reduced[i]:
            last = i == y.ndim - 1
            y = y.sum(i, dtype=x.dtype) if last else _sum_rows(np.moveaxis(y, i, 0))
    others = [a for a in order if a not in axes]
    result = np.asarray(y).reshape([x.shape[a] for a in others])
    return result.transpose(sorted(range(len(others)), key=others.__getitem__))


def largest_square(largest: float) -> float:
    """Return the square of the largest absolute value of numbers; inf beyond 1e140."""
    return largest**2 if abs(largest) < 1e140 else abs(largest) * inf


def exact_grids(most: float, count: int) -> tuple[float, float]:
    """Return two numbers for exact sums of `count` numbers in [0, most], with 0 < most < inf.

    (x + grid) - grid rounds x to multiples of a number so large that sums of such are exact in
    float64; what the first grid leaves is rounded by the second one (Demmel and Nguyen 2013)."""
    first = frexp(2 * count * most)[1]
    second = frexp(count * ldexp(1.0, first - 52))[1]
    return ldexp(1.5, first), ldexp(1.5, second)


def _innermost(x: NDArray, axes: tuple[int, ...]) -> bool:
    """Tell whether the numbers that are summed lie side by side in memory."""
    return axes[:1] == (x.ndim - len(axes),) and x.flags.c_contiguous


def _merged(x: NDArray, order: list[int], axes: tuple[int, ...]) -> tuple[list[int], list[bool]]:
    """Return the extents of the axes in an order, and whether each is summed over.

    Neighbours of one kind that can be walked in one stride are merged."""
    extents: list[int] = []
    reduced: list[bool] = []
    before = 0
    for a in order:
        size, stride = x.shape[a], x.strides[a]
        if size == 1:
            continue
        if extents and reduced[-1] == (a in axes) and before == size * stride:
            extents[-1] *= size
        else:
            extents.append(size)
            reduced.append(a in axes)
        before = stride
    return extents, reduced


def _sum_rows(y: NDArray) -> NDArray:
    """Return the sum over the first axis."""
    count = len(y)
    if count <= BLOCK:
        return np.asarray(y.sum(0, dtype=y.dtype))
    rows = max(1, min(WIDE * count // y.size, count // BLOCK))
    whole = count - count % (BLOCK * rows)
    blocks = y[:whole].reshape(-1, BLOCK, rows, *y.shape[1:])
    total = _sum_rows(blocks.sum(1, dtype=y.dtype).reshape(-1, *y.shape[1:]))
    return total + _sum_rows(y[whole:]) if whole < count else total
