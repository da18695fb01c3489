"""Scaled dot-product attention (Vaswani et al. 2017), made of products, a softmax and masks."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import BOOL
from ..primitive import Value, primitive
from .activation import softmax
from .compare import gt
from .elementwise import add, where
from .linear import matmul, swapped
from .reduce import scale
from .shape import free, full


@primitive(infer=lambda *, rows, columns: Spec((rows, columns), BOOL), cost=free)
def causal(*, rows: int, columns: int) -> NDArray:
    """Return the truth values (rows, columns) of column <= row: the positions up to one's own."""
    return np.tri(rows, columns, dtype=BOOL)


def attention(
    q: Value, k: Value, v: Value, mask: Value | None, factor: float, drop: Callable[[Value], Value]
) -> tuple[Value, Value]:
    """Return drop(softmax(factor q k^T)) v (.., L, V), and the weights before v (.., L, S).

    q is (.., L, E), k (.., S, E), v (.., S, V); `mask` broadcasts to (.., L, S): truth values that
    are False at what must not be read, or numbers to be added. A row in which nothing may be read
    has weights of 0, as in torch."""
    scores = matmul(scale(q, factor=factor), swapped(k))
    if mask is None:
        weights = drop(softmax(scores, axis=len(scores.shape) - 1))
        return matmul(weights, v), weights
    keep = mask
    if mask.dtype != BOOL:
        scores, keep = add(scores, mask), gt(mask, full(shape=(), dtype=mask.dtype, value=-inf))
    scores = where(keep, scores, full(shape=(), dtype=scores.dtype, value=-inf))
    y = softmax(scores, axis=len(scores.shape) - 1)
    weights = drop(where(keep, y, full(shape=(), dtype=y.dtype, value=0.0)))
    return matmul(weights, v), weights
