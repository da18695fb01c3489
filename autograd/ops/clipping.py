"""Norms of gradients, and clipping by them.

The norm of several arrays has the same bits however their elements are split among arrays, calls or
ranks, and in whatever order they are added."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import FLOAT64
from ..ledger import Cost
from ..primitive import primitive
from ..summation import exact_grids, largest_square
from .update import fits

BLOCK = 1 << 14  # elements at a time: they fit in the second-level cache


@primitive(infer=lambda x: Spec((), FLOAT64), cost=lambda y, x: Cost(cmp=2 * x.size))
def magnitude(x: NDArray) -> NDArray:
    """Return the largest absolute value, 0 of nothing, NaN where there is one."""
    return np.asarray(max(x.max(), -x.min()) if x.size else 0.0, FLOAT64)


@primitive(
    infer=lambda x, largest, *, count: Spec((2,), FLOAT64),
    cost=lambda y, x, largest, *, count: Cost(add=8 * x.size, mul=x.size),
)
def square_sums(x: NDArray, largest: NDArray, *, count: int) -> NDArray:
    """Return two sums, (2,), that add up to the sum of squares, and are exact: those of other parts
    of the same `count` elements, with their `largest` absolute value, may be added in any order.

    Squares are rounded by two grids, see `exact_grids`, with a sum each."""
    most = largest_square(float(largest))
    if not 0 < most < inf:
        return np.array([most, 0.0])
    grids, sums, flat = exact_grids(most, count), np.zeros(2), x.reshape(-1)
    for start in range(0, x.size, BLOCK):
        rest = np.square(flat[start : start + BLOCK].astype(FLOAT64))
        for i, grid in enumerate(grids):
            rounded = (rest + grid) - grid
            sums[i] += rounded.sum()
            rest -= rounded
    return sums


@primitive(infer=lambda sums: Spec((), FLOAT64), cost=lambda y, sums: Cost(add=1, exp=1))
def norm_of(sums: NDArray) -> NDArray:
    """Return the norm from the sums of squares, (2,)."""
    return np.asarray(sqrt(sums[0] + sums[1]), FLOAT64)


@primitive(infer=fits, cost=lambda y, g, norm, *, most: Cost(mul=g.size), writes=(0,))
def clip_to_norm(g: NDArray, norm: NDArray, *, most: float) -> None:
    """Multiply g by min(1, most / (norm + 1e-6)), as torch does."""
    g *= g.dtype.type(min(most / (float(norm) + 1e-6), 1.0))


@primitive(infer=fits, cost=lambda y, g, *, most: Cost(cmp=2 * g.size), writes=(0,))
def clip_to_value(g: NDArray, *, most: float) -> None:
    """Limit g to [-most, most]."""
    np.clip(g, g.dtype.type(-most), g.dtype.type(most), out=g)
