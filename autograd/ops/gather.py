"""Elements taken from and put to positions that integer arrays give, and the order of elements.

Positions count from 0. IndexError for one out of range, where numbers are computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import INT64, computed_in, is_integer
from ..ledger import Cost
from ..primitive import Value, primitive
from .compare import eq
from .elementwise import fit, where
from .rules import numeric
from .shape import full, reshape, zero


def in_range(name: str, index: NDArray, size: int) -> NDArray:
    """Return positions. IndexError, which names the operation, for one outside [0, size)."""
    # Without a sign, a position below 0 is a large one.
    wrong = index.astype(np.int64, copy=False).view(np.uint64) >= size
    if wrong.any():
        raise IndexError(f"{name}: expected positions in [0, {size}), got {index[wrong][0]}")
    return index


def _integers(index: Spec) -> None:
    """TypeError for positions that are not integers."""
    if not is_integer(index.dtype):
        raise TypeError(f"expected positions as integers, got {index.dtype}")


def _beside(x: Spec, index: Spec, axis: int) -> None:
    """ValueError unless positions lie within x along all axes but one."""
    _integers(index)
    pairs = [*zip(index.shape, x.shape, strict=False)]
    if len(index.shape) != len(x.shape) or any(n > m for n, m in pairs[:axis] + pairs[axis + 1 :]):
        raise ValueError(
            f"expected positions of at most {x.shape} but for axis {axis}, got shape {index.shape}"
        )


def _gathered(x: Spec, index: Spec, *, axis: int) -> Spec:
    """Shape rule of gather."""
    _beside(x, index, axis)
    return Spec(index.shape, x.dtype)


def _region(x: NDArray, index: NDArray, axis: int) -> NDArray:
    """Return the part of x that positions along an axis lie in: a view."""
    return x[tuple(slice(None if i == axis else n) for i, n in enumerate(index.shape))]


@primitive(infer=_gathered, cost=lambda y, x, index, **a: Cost(bytes_read=y.nbytes + index.nbytes))
def gather(x: NDArray, index: NDArray, *, axis: int) -> NDArray:
    """Return y[i, j, ..] = x[index[i, j, ..], j, ..], for axis 0; for others likewise."""
    in_range("gather", index, x.shape[axis])
    return np.take_along_axis(_region(x, index, axis), index, axis)


@gather.vjp("x")
def _(dy: Value, index: Value, specs: tuple[Spec, ...], axis: int) -> Value:
    return scatter_sum(dy, index, axis=axis, shape=specs[0].shape)


def _summed(x: Spec, index: Spec, *, axis: int, shape: tuple[int, ...]) -> Spec:
    """Shape rule of scatter_sum. ValueError for another number of positions than of elements."""
    y = Spec(shape, x.dtype)
    _beside(y, index, axis)
    if x.shape != index.shape:
        raise ValueError(f"expected an element for each position {index.shape}, got {x.shape}")
    return y


@primitive(infer=_summed, cost=lambda y, x, index, **a: Cost(add=x.size))
def scatter_sum(x: NDArray, index: NDArray, *, axis: int, shape: tuple[int, ...]) -> NDArray:
    """Return zeros to which each element of x is added at its position: `gather` transposed."""
    y = np.zeros(shape, x.dtype)
    key: list[Any] = [*np.ogrid[tuple(slice(n) for n in index.shape)]]
    key[axis] = in_range("scatter_add", index, shape[axis])
    np.add.at(y, tuple(key), x)
    return y


@scatter_sum.vjp("x")
def _(dy: Value, index: Value, axis: int) -> Value:
    return gather(dy, index, axis=axis)


def _scattered(x: Spec, src: Spec, index: Spec, *, axis: int) -> Spec:
    """Shape rule of scatter. ValueError for elements that are neither one nor one a position."""
    _beside(x, index, axis)
    if src.dtype != x.dtype:
        raise TypeError(f"expected elements of {x.dtype}, got {src.dtype}")
    if src.shape not in ((), index.shape):
        raise ValueError(f"expected an element for each position {index.shape}, got {src.shape}")
    return x


@primitive(infer=_scattered, cost=lambda y, *s, **a: Cost())
def scatter(x: NDArray, src: NDArray, index: NDArray, *, axis: int) -> NDArray:
    """Return x with elements of src, or with one number, at positions along an axis.

    Of several elements for one position the last one stays."""
    y = np.array(x)
    in_range("scatter", index, x.shape[axis])
    np.put_along_axis(_region(y, index, axis), index, src, axis)
    return y


@scatter.vjp("x")
def _(dy: Value, index: Value, specs: tuple[Spec, ...], axis: int) -> Value:
    nothing = full(shape=(), dtype=dy.dtype, value=0.0)
    return fit(scatter(dy, nothing, index, axis=axis), specs[0])


@scatter.vjp("src")
def _(dy: Value, index: Value, specs: tuple[Spec, ...], axis: int) -> Value:
    return fit(gather(dy, index, axis=axis), specs[1])


def _rows(w: Spec, ids: Spec, *, padding: int) -> Spec:
    """Shape rule of embedding. ValueError for a weight that is no matrix."""
    _integers(ids)
    if len(w.shape) != 2:
        raise ValueError(f"expected a weight (rows, C), got shape {w.shape}")
    return Spec((*ids.shape, w.shape[1]), w.dtype)


@primitive(infer=_rows, cost=lambda y, w, ids, **a: Cost(bytes_read=y.nbytes + ids.nbytes))
def embedding(w: NDArray, ids: NDArray, *, padding: int) -> NDArray:
    """Return the rows of w (rows, C) that `ids` name: (.., C).

    The row `padding` has no gradient; -1: each has."""
    return np.asarray(w[in_range("embedding", ids, len(w))])


@embedding.vjp("w")
def _(dy: Value, ids: Value, specs: tuple[Spec, ...], padding: int) -> Value:
    return embedding_dw(dy, ids, rows=specs[0].shape[0], padding=padding)


@primitive(
    infer=lambda dy, ids, *, rows, padding: Spec((rows, dy.shape[-1]), computed_in(dy.dtype)),
    cost=lambda dw, dy, ids, **a: Cost(add=dy.size),
    outputs=("dw",),
)
def embedding_dw(dy: NDArray, ids: NDArray, *, rows: int, padding: int) -> NDArray:
    """Return dw (rows, C): each row of dy is added to the row of its id, unless that is
    `padding`.

    The additions are those of the rows that are named, however many there are in all."""
    dw = np.zeros((rows, dy.shape[-1]), dy.dtype)
    np.add.at(dw, ids, dy)
    if padding >= 0:
        dw[padding] = 0
    return dw


@embedding_dw.vjp("dy")
def _(ddw: Value, ids: Value, specs: tuple[Spec, ...], padding: int) -> Value:
    ddy = fit(embedding(ddw, ids, padding=padding), specs[0])
    if padding < 0:
        return ddy
    hit = eq(ids, full(shape=(), dtype=specs[1].dtype, value=padding))
    nothing = full(shape=(), dtype=ddy.dtype, value=0.0)
    return where(reshape(hit, shape=(*ids.shape, 1)), nothing, ddy)


def _ordered(x: Spec, *, axis: int, descending: bool, count: int) -> Spec:
    """Shape rule of order: `count` positions along the axis. ValueError for too many."""
    numeric(x)
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(
            f"expected 0 to {x.shape[axis]} elements along axis {axis} of {x.shape}, got {count}"
        )
    return Spec((*x.shape[:axis], count, *x.shape[axis + 1 :]), INT64)


def _order_cost(y: Spec, x: Spec, *, axis: int, **attrs: Any) -> Cost:
    """Cost rule of order: n log2 n comparisons for n elements, as merging takes at most."""
    return Cost(cmp=x.size * max(x.shape[axis] - 1, 0).bit_length())


@primitive(infer=_ordered, cost=_order_cost)
def order(x: NDArray, *, axis: int, descending: bool, count: int) -> NDArray:
    """Return the positions of the first `count` elements along an axis in ascending or descending
    order.

    Equal ones keep their order; NaN counts as the largest, as in torch."""
    if descending:  # turned before and behind: equal elements keep their order
        turned = np.argsort(np.flip(x, axis), axis, stable=True)
        found = np.flip(x.shape[axis] - 1 - turned, axis)
    else:
        found = np.argsort(x, axis, stable=True)
    return np.asarray(np.take(found, range(count), axis), INT64)


@order.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[0])


def _hot(x: Spec, *, classes: int) -> Spec:
    """Shape rule of one_hot: an axis more."""
    _integers(x)
    return Spec((*x.shape, classes), INT64)


@primitive(infer=_hot, cost=lambda y, x, **a: Cost())
def one_hot(x: NDArray, *, classes: int) -> NDArray:
    """Return 1 at the position that each element is along a new last axis, 0 elsewhere."""
    y = np.zeros((*x.shape, classes), INT64)
    np.put_along_axis(y, in_range("one_hot", x, classes)[..., None], 1, -1)
    return y
