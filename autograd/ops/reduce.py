"""Reductions along axes, which are attributes: sorted tuples of non-negative numbers.

Sums are `summation.sum_over`, pairwise along any axis. Equal extremes share the gradient evenly, as
in torch's amax and amin."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import BOOL, INT64, computed_in
from ..ledger import Cost
from ..primitive import Value, primitive
from ..summation import sum_over
from .shape import converted, integers, reshape, zero


def axes_of(name: str, axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """Return axes as a sorted tuple of non-negative numbers, all of them for None. ValueError,
    which names the operation, for an axis out of range or listed twice."""
    listed = range(ndim) if axis is None else integers((axis,))
    if not ndim and [*listed] in ([0], [-1]):  # as in torch, a number has an axis that is none
        return ()
    axes = tuple(sorted(a + ndim if a < 0 else a for a in listed))
    if len(set(axes)) != len(axes) or any(not 0 <= a < ndim for a in axes):
        raise ValueError(f"{name}: expected distinct axes in [{-ndim}, {ndim}), got {axis}")
    return axes


def reduced(x: Spec, *, axes: tuple[int, ...]) -> Spec:
    """Shape rule of a reduction: the shape without the reduced axes."""
    return Spec(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


def occupied(x: Spec, *, axes: tuple[int, ...]) -> Spec:
    """Shape rule of reductions that have no value over nothing. ValueError for an empty range."""
    if x.size == 0 and 0 in [x.shape[a] for a in axes]:
        raise ValueError(
            f"max, min: expected at least one element along axes {axes}, got {x.shape}"
        )
    return reduced(x, axes=axes)


def kept_shape(x: Spec, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape with an extent of 1 for each reduced axis."""
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def spread(dy: Value, x: Spec, axes: tuple[int, ...]) -> Value:
    """Return a reduced array repeated along the axes that it lacks: the gradient of a sum."""
    return broadcast_to(reshape(dy, shape=kept_shape(x, axes)), shape=x.shape)


def _summed(x: Spec, *, axes: tuple[int, ...], wide: bool) -> Spec:
    """Shape rule of sum."""
    y = reduced(x, axes=axes)
    return y._replace(dtype=computed_in(x.dtype)) if wide else y


@primitive(infer=_summed, cost=lambda y, x, **a: Cost(add=max(x.size - y.size, 0)))
def sum(x: NDArray, *, axes: tuple[int, ...], wide: bool = False) -> NDArray:
    """Return the sum of x over axes; if `wide`, in the type in which it is formed."""
    return sum_over(x, axes)


@sum.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], axes: tuple[int, ...]) -> Value:
    return spread(converted(dy, specs[0].dtype), specs[0], axes)


@primitive(infer=reduced, cost=lambda y, x, **a: Cost(add=max(x.size - y.size, 0), mul=y.size))
def mean(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return the mean of x over axes, not a number over nothing."""
    count = prod(x.shape[a] for a in axes)
    return np.asarray(sum_over(x, axes) * x.dtype.type(1 / count if count else np.nan))


@mean.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], axes: tuple[int, ...]) -> Value:
    count = prod(specs[0].shape[a] for a in axes)
    return spread(scale(dy, factor=1 / count if count else 0.0), specs[0], axes)


@primitive(infer=lambda x, *, factor: x, cost=lambda y, x, **a: Cost(mul=y.size))
def scale(x: NDArray, *, factor: float) -> NDArray:
    """Return x times a factor that follows from shapes alone, such as 1 / n."""
    return np.multiply(x, x.dtype.type(factor))


@scale.vjp("x")
def _(dy: Value, factor: float) -> Value:
    return scale(dy, factor=factor)


def _spreads(x: Spec, *, shape: tuple[int, ...]) -> Spec:
    """Shape rule of broadcast_to. ValueError for a shape that does not broadcast to the larger
    one."""
    old = (1,) * (len(shape) - len(x.shape)) + x.shape
    if len(old) != len(shape) or any(a not in (1, b) for a, b in zip(old, shape, strict=True)):
        raise ValueError(f"expected a shape that broadcasts to {shape}, got {x.shape}")
    return Spec(shape, x.dtype)


@primitive(infer=_spreads, cost=lambda y, *s, **a: Cost(), alias=0)
def broadcast_to(x: NDArray, *, shape: tuple[int, ...]) -> NDArray:
    """Return x repeated to a larger shape, without a copy: repeated axes have stride 0."""
    return np.broadcast_to(x, shape)


@broadcast_to.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return sum_to(dy, shape=specs[0].shape)


@primitive(
    infer=lambda x, *, shape: Spec(shape, x.dtype),
    cost=lambda y, x, **a: Cost(add=max(x.size - y.size, 0)),
)
def sum_to(x: NDArray, *, shape: tuple[int, ...]) -> NDArray:
    """Return x summed over the axes along which `shape` would be broadcast to x: broadcast_to
    transposed."""
    extra = x.ndim - len(shape)
    axes = [i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1]
    return sum_over(x, (*range(extra), *axes)).reshape(shape)


@sum_to.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return broadcast_to(dy, shape=specs[0].shape)


@primitive(infer=lambda x: Spec((), INT64), cost=lambda y, x: Cost(add=x.size))
def checksum(x: NDArray) -> NDArray:
    """Return the sum of the bits of all elements, read as integers, of which the highest bits are
    lost: it changes with any single bit, and does not depend on any order."""
    words = x.view(f"u{x.dtype.itemsize}")
    return np.add.reduce(words, axis=None, dtype=words.dtype).astype(np.int64)


@primitive(infer=occupied, cost=lambda y, x, **a: Cost(cmp=max(x.size - y.size, 0)))
def amax(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return the largest value over axes; equal ones share the gradient evenly."""
    return np.asarray(x.max(axes))


@amax.vjp("x")
def _(dy: Value, x: Value, y: Value, specs: tuple[Spec, ...], axes: tuple[int, ...]) -> Value:
    return amax_dx(dy, x, y, axes=axes)


@primitive(infer=occupied, cost=lambda y, x, **a: Cost(cmp=max(x.size - y.size, 0)))
def amin(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return the smallest value over axes; equal ones share the gradient evenly."""
    return np.asarray(x.min(axes))


@amin.vjp("x")
def _(dy: Value, x: Value, y: Value, specs: tuple[Spec, ...], axes: tuple[int, ...]) -> Value:
    return amax_dx(dy, x, y, axes=axes)


def _counted(hit: NDArray, axes: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    # Counted as integers: in float32, ones that are added up stop at 2^24.
    """Return how many elements equal the extreme, in the type of x."""
    return np.asarray(np.count_nonzero(hit, axes), dtype)


@primitive(
    infer=lambda dy, x, y, *, axes: x,
    cost=lambda dx, dy, x, y, **a: Cost(cmp=x.size, mul=x.size, div=y.size, add=x.size),
    outputs=("dx",),
)
def amax_dx(dy: NDArray, x: NDArray, y: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return dx: dy divided evenly among the elements of x that equal the extreme y."""
    hit = _extreme(x, y, axes)
    part = np.expand_dims(dy, axes) / np.expand_dims(_counted(hit, axes, x.dtype), axes)
    return np.where(hit, part, x.dtype.type(0))


@amax_dx.vjp("dy")
def _(ddx: Value, x: Value, y: Value, axes: tuple[int, ...]) -> Value:
    return amax_pick(ddx, x, y, axes=axes)


@amax_dx.vjp("x", "y")
def _(ddx: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    return zero(specs[1]), zero(specs[2])


@primitive(
    infer=lambda ddx, x, y, *, axes: y,
    cost=lambda dy, ddx, x, y, **a: Cost(cmp=x.size, mul=x.size, div=y.size, add=x.size),
    outputs=("ddy",),
)
def amax_pick(ddx: NDArray, x: NDArray, y: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return ddy: the mean of ddx over the elements of x that equal the extreme; amax_dx
    transposed."""
    hit = _extreme(x, y, axes)
    picked = np.where(hit, ddx, x.dtype.type(0))
    return np.asarray(sum_over(picked, axes) / _counted(hit, axes, x.dtype))


def _extreme(x: NDArray, y: NDArray, axes: tuple[int, ...]) -> NDArray:
    """Return which elements equal the extreme y; a NaN does, wherever there is one."""
    return (x == np.expand_dims(y, axes)) | np.isnan(x)


@amax_pick.vjp("ddx")
def _(dddy: Value, x: Value, y: Value, axes: tuple[int, ...]) -> Value:
    return amax_dx(dddy, x, y, axes=axes)


@amax_pick.vjp("x", "y")
def _(dddy: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    return zero(specs[1]), zero(specs[2])


def _position(x: Spec, *, axis: int) -> Spec:
    """Shape rule of argmin and argmax: int64, without the axis."""
    return Spec(occupied(x, axes=(axis,)).shape, INT64)


@primitive(infer=_position, cost=lambda y, x, **a: Cost(cmp=max(x.size - y.size, 0)))
def argmin(x: NDArray, *, axis: int) -> NDArray:
    """Return the position of the first smallest value along an axis, as int64."""
    return np.asarray(x.argmin(axis), dtype=INT64)


@primitive(infer=_position, cost=lambda y, x, **a: Cost(cmp=max(x.size - y.size, 0)))
def argmax(x: NDArray, *, axis: int) -> NDArray:
    """Return the position of the first largest value along an axis, as int64."""
    return np.asarray(x.argmax(axis), dtype=INT64)


def _truths(x: Spec, *, axes: tuple[int, ...]) -> Spec:
    """Shape rule of any_of and all_of: truth values."""
    return Spec(reduced(x, axes=axes).shape, BOOL)


@primitive(infer=_truths, cost=lambda y, x, **a: Cost(cmp=x.size))
def any_of(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return True where any element over axes is not 0."""
    return np.asarray(x.any(axes))


@primitive(infer=_truths, cost=lambda y, x, **a: Cost(cmp=x.size))
def all_of(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return True where no element over axes is 0."""
    return np.asarray(x.all(axes))


@primitive(infer=reduced, cost=lambda y, x, **a: Cost(mul=max(x.size - y.size, 0)))
def product(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return the product of x over axes."""
    return np.asarray(x.prod(axes, dtype=x.dtype))


@product.vjp("x")
def _(dy: Value, x: Value, axes: tuple[int, ...]) -> Value:
    return product_dx(dy, x, axes=axes)


@primitive(
    infer=lambda dy, x, *, axes: x,
    cost=lambda dx, dy, x, **a: Cost(mul=4 * x.size),
    outputs=("dx",),
)
def product_dx(dy: NDArray, x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return dx: dy times the product of the other elements.

    It is formed as the product of those before times that of those behind, which is exact beside
    zeros too, where dividing the whole product by x would fail."""
    last = range(x.ndim - len(axes), x.ndim)
    # The reduced axes at the end and merged, so that "before" and "behind" are one cumulative
    # product each.
    moved = np.moveaxis(x, axes, last)
    flat = moved.reshape(*dy.shape, prod(x.shape[a] for a in axes))
    before, behind = np.ones_like(flat), np.ones_like(flat)
    np.cumprod(flat[..., :-1], -1, out=before[..., 1:])
    np.cumprod(flat[..., :0:-1], -1, out=behind[..., -2::-1])
    dx = before * behind * dy[..., None]
    return np.moveaxis(dx.reshape(moved.shape), last, axes)
