"""Running sums and products along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array import NDArray
from ..dtypes import STATISTICS, is_floating
from ..ledger import Cost
from ..primitive import Value, primitive
from .rules import each, numeric


@primitive(infer=numeric, cost=each(add=1))
def cumsum(x: NDArray, *, axis: int, reverse: bool) -> NDArray:
    """Return the sum of the elements up to each one along an axis, or from it on if `reverse`.

    Sums are formed in float64 and rounded once."""
    wide = STATISTICS if is_floating(x.dtype) else x.dtype
    if reverse:
        x = np.flip(x, axis)
    y = np.cumsum(x, axis, dtype=wide).astype(x.dtype, copy=False)
    return np.flip(y, axis) if reverse else y


@cumsum.vjp("x")
def _(dy: Value, axis: int, reverse: bool) -> Value:
    return cumsum(dy, axis=axis, reverse=not reverse)


@primitive(infer=numeric, cost=each(mul=1))
def cumprod(x: NDArray, *, axis: int) -> NDArray:
    """Return the product of the elements up to each one along an axis."""
    return np.cumprod(x, axis, dtype=x.dtype)


@cumprod.vjp("x")
def _(dy: Value, x: Value, axis: int) -> Value:
    return cumprod_dx(dy, x, axis=axis)


@primitive(
    infer=lambda dy, x, *, axis: x,
    cost=lambda dx, dy, x, **a: Cost(mul=3 * x.size, add=x.size),
    outputs=("dx",),
)
def cumprod_dx(dy: NDArray, x: NDArray, *, axis: int) -> NDArray:
    """Return dx: the product of the elements before each one, times S, the sum of all later dy
    times the elements between: S = dy + next x times next S.

    Nothing is divided by x, so it is exact beside zeros."""
    x, dy = np.moveaxis(x, axis, 0), np.moveaxis(dy, axis, 0)
    before = np.ones_like(x)
    np.cumprod(x[:-1], 0, out=before[1:])
    later: Any = dy.copy()
    for i in range(len(x) - 2, -1, -1):
        later[i] += x[i + 1] * later[i + 1]
    return np.moveaxis(before * later, 0, axis)
