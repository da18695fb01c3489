"""Standardization of the numbers of one sample: what layer, group, instance and RMS norm share.

x is (N, C, ..); each of the `groups` has a share of the channels, and one mean and one variance for
each sample. Statistics are formed in `dtypes.STATISTICS`, as are the deviations from the mean, so a
mean far from zero costs no accuracy. The tape keeps y, not x: with y, a factor and a bias need no
further array."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import STATISTICS, computed_in
from ..ledger import Cost
from ..primitive import Value, primitive
from .elementwise import add, div, fit, mul, neg
from .reduce import mean, scale
from .reduce import sum as total
from .rules import floating
from .shape import reshape

BLOCK = 1 << 15  # elements worked on at a time, so that temporaries stay in the cache


def _standard(x: Spec, *, groups: int, eps: float, centered: bool) -> tuple[Spec, Spec]:
    """Shape rule of standardize. ValueError for groups that do not divide the channels."""
    floating(x)
    if len(x.shape) < 2:
        raise ValueError(f"expected an input (N, C, ..), got shape {x.shape}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"expected groups that divide {x.shape[1]} channels, got {groups}")
    return x, Spec((x.shape[0], groups), computed_in(x.dtype))


def _cost(ys: tuple[Spec, Spec], x: Spec, *, groups: int, eps: float, centered: bool) -> Cost:
    """Cost rule of standardize: per element a square, its sum and a product; if centered, a sum and
    a deviation too. The square root and the division come once per group."""
    rows = ys[1].size
    return Cost(
        add=(3 if centered else 1) * x.size + rows,
        mul=2 * x.size + (2 if centered else 1) * rows,
        div=rows,
        exp=rows,
    )


def _grouped(x: NDArray, groups: int) -> NDArray:
    """Return x as (N, groups, C / groups, ..), a view in any layout."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _samples(x: NDArray) -> Iterator[slice]:
    """Yield slices of the first axis, each of about BLOCK elements or of one sample."""
    step = max(1, BLOCK // max(prod(x.shape[1:]), 1))
    for i in range(0, len(x), step):
        yield slice(i, i + step)


def _mean(x: NDArray) -> NDArray:
    """Return the mean of each group, 0 of nothing, to be broadcast against x."""
    sums = x.sum(tuple(range(2, x.ndim)), keepdims=True)
    return np.asarray(sums / max(prod(x.shape[2:]), 1))


@primitive(infer=_standard, cost=_cost, outputs=("y", "rate"))
def standardize(x: NDArray, *, groups: int, eps: float, centered: bool) -> tuple[NDArray, NDArray]:
    """Return (x - mean) rate and rate = 1 / sqrt(var + eps), (N, groups), var the biased variance.

    Without `centered`, the mean is not subtracted and var is the mean square."""
    y, rate = np.empty_like(x), np.empty((len(x), groups), x.dtype)
    source, to = _grouped(x, groups), _grouped(y, groups)
    with np.errstate(invalid="ignore", over="ignore"):
        for at in _samples(x):
            off = source[at].astype(STATISTICS)
            if centered:
                off -= _mean(off)
            each = 1 / np.sqrt(_mean(off * off) + eps)
            to[at] = np.multiply(off, each, out=off)
            rate[at] = each.reshape(-1, groups)
    return y, rate


@standardize.vjp("x")
def _(
    dy: Value | None, drate: Value | None, y: Value, rate: Value, specs: tuple[Spec, ...],
    groups: int, centered: bool,
) -> Value:  # fmt: skip
    dx = None if dy is None else standardize_dx(dy, y, rate, groups=groups, centered=centered)
    if drate is not None:
        # d rate / dx = -rate^2 y / n
        flat = _rows(y, groups)
        slope = scale(mul(drate, mul(rate, rate)), factor=-1 / max(flat.shape[1], 1))
        more = reshape(mul(flat, reshape(slope, shape=(flat.shape[0], 1))), shape=y.shape)
        dx = more if dx is None else add(dx, more)
    return fit(dx, specs[0])


def _rows(x: Value, groups: int) -> Value:
    """Return x as a matrix with a row for each group of each sample."""
    rows = x.shape[0] * groups
    return reshape(x, shape=(rows, prod(x.shape) // max(rows, 1)))


def _dx_cost(dx: Spec, dy: Spec, y: Spec, rate: Spec, *, groups: int, centered: bool) -> Cost:
    """Cost rule of standardize_dx: per element a product and its sum, a product with y, a
    difference and a product with rate; if centered, a sum and a difference too."""
    return Cost(add=(4 if centered else 2) * dy.size, mul=3 * dy.size + (1 + centered) * rate.size)


@primitive(infer=lambda dy, y, rate, **a: dy, cost=_dx_cost, outputs=("dx",))
def standardize_dx(
    dy: NDArray, y: NDArray, rate: NDArray, *, groups: int, centered: bool
) -> NDArray:
    """Return dx = rate (dy - mean of dy - y mean of (dy y)), without the mean of dy unless
    `centered`."""
    dx = np.empty_like(dy)
    top, value, to = (_grouped(a, groups) for a in (dy, y, dx))
    slope = rate.reshape(*rate.shape, *[1] * (top.ndim - 2))
    with np.errstate(invalid="ignore", over="ignore"):
        for at in _samples(dy):
            off, part = top[at].astype(STATISTICS), value[at].astype(STATISTICS)
            tilt = _mean(off * part)
            if centered:
                off -= _mean(off)
            off -= np.multiply(part, tilt, out=part)
            to[at] = np.multiply(off, slope[at], out=off)
    return dx


@standardize_dx.vjp("dy", "y", "rate")
def _(
    ddx: Value, dy: Value, y: Value, rate: Value, dx: Value, specs: tuple[Spec, ...], groups: int,
    centered: bool,
) -> tuple[Value, ...]:  # fmt: skip
    top, value, above, result = (_rows(a, groups) for a in (dy, y, ddx, dx))
    column = (top.shape[0], 1)

    def means(a: Value, b: Value) -> Value:
        return reshape(mean(mul(a, b), axes=(1,)), shape=column)

    bent = add(mul(above, means(top, value)), mul(top, means(above, value)))
    slope = div(total(mul(above, result), axes=(1,)), reshape(rate, shape=column[:1]))
    return (
        fit(standardize_dx(ddx, y, rate, groups=groups, centered=centered), specs[0]),
        fit(reshape(neg(mul(reshape(rate, shape=column), bent)), shape=y.shape), specs[1]),
        fit(reshape(slope, shape=rate.shape), specs[2]),
    )
