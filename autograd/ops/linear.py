"""Matrix products. MACs are counted as rows x inner x columns, whatever the memory layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ..array import Array, NDArray, Spec
from ..dtypes import computed_in, is_floating, is_narrow
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, factor, matrix_product, rows, transposed
from ..primitive import Value, primitive
from ..products import multiply
from .elementwise import fit
from .reduce import sum
from .rules import common, one_kind, together
from .shape import permute, reshape


def _product(x: Spec, w: Spec, *, wide: bool) -> Spec:
    """Shape rule of matmul: leading axes broadcast. ValueError where inner extents differ."""
    if len(x.shape) < 2 or len(w.shape) < 2 or x.shape[-1] != w.shape[-2]:
        raise ValueError(f"matmul: expected (.., a, b) and (.., b, c), got {x.shape} and {w.shape}")
    try:
        batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    except ValueError:
        raise ValueError(
            f"matmul: expected leading axes that broadcast, got {x.shape} and {w.shape}"
        ) from None
    one_kind("matmul", x, w)
    dtype = common(x, w)
    return Spec((*batch, x.shape[-2], w.shape[-1]), computed_in(dtype) if wide else dtype)


def multiplied(x: NDArray, w: NDArray) -> NDArray:
    """Return x @ w, in the common type of both."""
    same = x.dtype == w.dtype and is_floating(x.dtype)
    return multiply(x, w) if same else together(np.matmul, x, w)


@primitive(infer=_product, cost=lambda y, x, w, **a: Cost(macs=y.size * x.shape[-1]))
def matmul(x: NDArray, w: NDArray, *, wide: bool = False) -> NDArray:
    """Return y[.., i, j] = the sum over k of x[.., i, k] w[.., k, j]; stacks of matrices
    broadcast. If `wide`, it has the type in which the sums are formed."""
    return multiplied(x, w)


@matmul.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    return [matrix_product(factor(args[0]), factor(args[1]))]


def swapped(x: Value) -> Value:
    """Return x with its last two axes exchanged, without a copy."""
    last = len(x.shape) - 1
    return permute(x, axes=(*range(last - 1), last, last - 1))


@matmul.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(matmul(dy, swapped(w)), specs[0])


@matmul.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    if len(specs[1].shape) == 2 and len(specs[0].shape) > 2:
        x = reshape(x, shape=(prod(x.shape[:-1]), x.shape[-1]))
        dy = reshape(dy, shape=(x.shape[0], dy.shape[-1]))
    if len(x.shape) == 2 and is_narrow(specs[1].dtype) and is_narrow(dy.dtype):
        return matmul(swapped(x), dy, wide=True)
    return fit(matmul(swapped(x), dy), specs[1])


def _linear(x: Spec, w: Spec, *b: Spec) -> Spec:
    """Shape rule of linear. ValueError where the input, the weight and the bias do not fit."""
    if not x.shape or len(w.shape) != 2 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: expected input (.., C) and weight (M, C), got {x.shape} and {w.shape}"
        )
    if b and b[0].shape != w.shape[:1]:
        raise ValueError(f"linear: expected a bias of shape {w.shape[:1]}, got {b[0].shape}")
    one_kind("linear", x, w, *b)
    return Spec((*x.shape[:-1], w.shape[0]), common(x, w, *b))


def _linear_cost(y: Spec, x: Spec, w: Spec, *b: Spec) -> Cost:
    """Cost rule of linear: M C multiply-accumulates for each row, one addition for each bias."""
    return Cost(macs=y.size * x.shape[-1], add=y.size * len(b))


@primitive(infer=_linear, cost=_linear_cost)
def linear(x: NDArray, w: NDArray, *b: NDArray) -> NDArray:
    """Return y[.., m] = the sum over c of x[.., c] w[m, c], plus b[m] if it is given.

    Weights have the layout (out, in) of layers, so that neither they nor their gradients are
    transposed in memory."""
    y = multiplied(x, w.T)
    if not b:
        return y
    if y.dtype != common(y, *b):
        return together(np.add, y, b[0])
    return np.add(y, b[0], out=y)


@linear.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    return [matrix_product(rows(args[0]), transposed(factor(args[1], weights=True)))]


@linear.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    rows = dy if len(dy.shape) > 1 else reshape(dy, shape=(1, *dy.shape))
    dx = matmul(rows, w)
    return fit(dx if rows is dy else reshape(dx, shape=specs[0].shape), specs[0])


@linear.vjp("w")
def linear_dw(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    """Return the gradient of the weight of `linear`, for the specs of x, w and b."""
    if len(x.shape) != 2:
        dy = reshape(dy, shape=(prod(dy.shape[:-1]), dy.shape[-1]))
        x = reshape(x, shape=(prod(x.shape[:-1]), x.shape[-1]))
    if is_narrow(specs[1].dtype) and is_narrow(x.dtype):
        return matmul(swapped(dy), x, wide=True)
    return fit(matmul(swapped(dy), x), specs[1])


@linear.vjp("b")
def linear_db(dy: Value, specs: tuple[Spec, ...]) -> Value:
    """Return the gradient of the bias of `linear`, for the specs of x, w and b."""
    if is_narrow(dy.dtype):
        return sum(dy, axes=tuple(range(len(dy.shape) - 1)), wide=True)
    return fit(dy, specs[2])


def product(x: Value, w: Value) -> Value:
    """Return x @ w with NumPy's rules for vectors.

    A vector on the left is a row, on the right a column; the axis that this adds is removed from
    the result. ValueError for numbers without axes."""
    if not x.shape or not w.shape:
        raise ValueError(
            f"matmul: expected at least one axis, got {x.shape} and {w.shape}; use * for numbers"
        )
    row, column = len(x.shape) == 1, len(w.shape) == 1
    x = reshape(x, shape=(1, *x.shape)) if row else x
    w = reshape(w, shape=(*w.shape, 1)) if column else w
    y = matmul(x, w)
    inner = (y.shape[-2],) * (not row) + (y.shape[-1],) * (not column)
    return reshape(y, shape=(*y.shape[:-2], *inner)) if row or column else y
