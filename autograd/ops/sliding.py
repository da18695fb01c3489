"""Windows along one axis, as a view: what volumes and patches of images are made of.

Window i has its tap t at position i stride + t dilation. With one axis at a time, windows along
several are products of these."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .shape import getslice


def windows_along(size: int, taps: int, stride: int, dilation: int) -> int:
    """Return how many windows fit an axis, below 1 where none does."""
    return (size - dilation * (taps - 1) - 1) // stride + 1


def _slid(x: Spec, *, axis: int, taps: int, stride: int, dilation: int) -> Spec:
    """Shape rule of sliding. ValueError where no window fits or an attribute is below 1."""
    if min(taps, stride, dilation) < 1:
        raise ValueError(
            f"expected taps, stride and dilation of at least 1, got {taps}, {stride}, {dilation}"
        )
    count = windows_along(x.shape[axis], taps, stride, dilation)
    if count < 1:
        raise ValueError(
            f"expected at least {dilation * (taps - 1) + 1} along axis {axis}, got {x.shape}"
        )
    return Spec((*x.shape[:axis], count, taps, *x.shape[axis + 1 :]), x.dtype)


@primitive(infer=_slid, cost=lambda y, x, **a: Cost(), alias=0)
def sliding(x: NDArray, *, axis: int, taps: int, stride: int, dilation: int) -> NDArray:
    """Return x with an axis replaced by two, windows and their taps, without a copy."""
    count = windows_along(x.shape[axis], taps, stride, dilation)
    shape = (*x.shape[:axis], count, taps, *x.shape[axis + 1 :])
    step = x.strides[axis]
    strides = (*x.strides[:axis], step * stride, step * dilation, *x.strides[axis + 1 :])
    return as_strided(x, shape, strides, writeable=False)


@sliding.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], axis: int, stride: int, dilation: int) -> Value:
    size = specs[0].shape[axis]
    return sliding_sum(dy, axis=axis, size=size, stride=stride, dilation=dilation)


@primitive(
    infer=lambda dy, *, axis, size, **a: Spec(
        (*dy.shape[:axis], size, *dy.shape[axis + 2 :]), dy.dtype
    ),
    cost=lambda dx, dy, **a: Cost(add=dy.size),
    outputs=("dx",),
)
def sliding_sum(dy: NDArray, *, axis: int, size: int, stride: int, dilation: int) -> NDArray:
    """Return dx: each element of dy added at its tap's position of `size`: sliding transposed."""
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 2 :]), dy.dtype)
    to, source = np.moveaxis(dx, axis, 0), np.moveaxis(dy, (axis, axis + 1), (1, 0))
    reach = (dy.shape[axis] - 1) * stride + 1
    for tap, part in enumerate(source):
        to[tap * dilation : tap * dilation + reach : stride] += part
    return dx


@sliding_sum.vjp("dy")
def _(ddx: Value, specs: tuple[Spec, ...], axis: int, stride: int, dilation: int) -> Value:
    # What lies behind the last window was seen by none.
    count, taps = specs[0].shape[axis : axis + 2]
    used = (count - 1) * stride + dilation * (taps - 1) + 1
    part = [(0, n, 1) for n in ddx.shape]
    part[axis] = (0, used, 1)
    y = ddx if used == ddx.shape[axis] else getslice(ddx, slices=tuple(part))
    return sliding(y, axis=axis, taps=taps, stride=stride, dilation=dilation)
