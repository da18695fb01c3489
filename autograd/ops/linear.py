"""Matrix products. MACs are counted as rows x inner x columns, whatever the memory layout."""

from __future__ import annotations

from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .elementwise import fit
from .rules import common, together
from .shape import permute, reshape


def _product(x: Spec, w: Spec) -> Spec:
    if len(x.shape) < 2 or len(w.shape) < 2 or x.shape[-1] != w.shape[-2]:
        raise ValueError(f"matmul: shapes {x.shape} and {w.shape} do not fit (.., a, b) (.., b, c)")
    try:
        batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    except ValueError:
        raise ValueError(f"matmul: the stacks of {x.shape} and {w.shape} do not fit") from None
    return Spec((*batch, x.shape[-2], w.shape[-1]), common(x.dtype, w.dtype))


@primitive(infer=_product, cost=lambda y, x, w: Cost(macs=y.size * x.shape[-1]))
def matmul(x: NDArray, w: NDArray) -> NDArray:
    """y[.., i, j] = the sum over k of x[.., i, k] w[.., k, j], stacks broadcast."""
    return together(np.matmul, x, w)


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
    return fit(matmul(swapped(x), dy), specs[1])


def _linear(x: Spec, w: Spec) -> Spec:
    if not x.shape or len(w.shape) != 2 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"linear: input {x.shape} does not fit weight {w.shape} (M, C)")
    return Spec((*x.shape[:-1], w.shape[0]), common(x.dtype, w.dtype))


@primitive(infer=_linear, cost=lambda y, x, w: Cost(macs=y.size * x.shape[-1]))
def linear(x: NDArray, w: NDArray) -> NDArray:
    """y[.., m] = the sum over c of x[.., c] w[m, c]: a product with weights as layers hold them, so
    that neither they nor their gradients are turned round."""
    return together(np.matmul, x, w.T)


@linear.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    rows = dy if len(dy.shape) > 1 else reshape(dy, shape=(1, *dy.shape))
    dx = matmul(rows, w)
    return fit(dx if rows is dy else reshape(dx, shape=specs[0].shape), specs[0])


@linear.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    if len(x.shape) != 2:
        dy = reshape(dy, shape=(prod(dy.shape[:-1]), dy.shape[-1]))
        x = reshape(x, shape=(prod(x.shape[:-1]), x.shape[-1]))
    return fit(matmul(swapped(dy), x), specs[1])


def product(x: Value, w: Value) -> Value:
    """Return x @ w with NumPy's rules for vectors: a missing axis is put in and taken out again."""
    if not x.shape or not w.shape:
        raise ValueError(f"matmul: shapes {x.shape} and {w.shape}; a number has no axes, use *")
    row, column = len(x.shape) == 1, len(w.shape) == 1
    x = reshape(x, shape=(1, *x.shape)) if row else x
    w = reshape(w, shape=(*w.shape, 1)) if column else w
    y = matmul(x, w)
    inner = (y.shape[-2],) * (not row) + (y.shape[-1],) * (not column)
    return reshape(y, shape=(*y.shape[:-2], *inner)) if row or column else y
