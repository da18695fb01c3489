"""Products of 8-bit integers, and the rounding of real numbers to them.

A number x is stored as q = round(x / scale), without an offset, so that zero padding is exact (the
symmetric scheme of Krishnamoorthi 2018, arXiv 1806.08342, section 2.2). Signed integers use -127 to
127, unsigned ones 0 to 255. Sums of products are exact in 32 bits, whatever the order of their
terms, and are then scaled: results are floating-point, in the type of the scale. Nothing here has a
derivative."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import FLOAT32, FLOAT64, INT8, KERNEL_TYPES, UINT8
from ..ledger import Cost
from ..primitive import primitive
from .conv import Padding, Pair, convolved, products
from .linear import multiplied
from .rules import each

LEVELS = {True: 127, False: 255}  # the largest integer, signed or not
MOST_TERMS = (2**31 - 1) // (255 * 128)  # of a sum that must fit into 32 bits
EXACT = 1 << 24  # integers up to here are exact in float32


def _rounded(x: Spec, scale: Spec, factors: Spec, *, signed: bool) -> tuple[Spec, Spec]:
    """Shape rule of quantize. TypeError or ValueError where the scale does not fit x."""
    if x.dtype not in KERNEL_TYPES or not x.dtype == scale.dtype == factors.dtype:
        names = ", ".join(map(str, KERNEL_TYPES))
        raise TypeError(
            f"expected x, scale and factors of one type ({names}), got {x.dtype}, {scale.dtype}, "
            f"{factors.dtype}"
        )
    if np.broadcast_shapes(x.shape, scale.shape) != x.shape:
        raise ValueError(f"expected a scale that broadcasts to {x.shape}, got {scale.shape}")
    return Spec(x.shape, INT8 if signed else UINT8), factors


@primitive(infer=_rounded, cost=each(mul=1, add=1, cmp=3), outputs=("q", "checked"))
def quantize(
    x: NDArray, scale: NDArray, factors: NDArray, *, signed: bool = True
) -> tuple[NDArray, NDArray]:
    """Return x (1 / scale), rounded half to even, as int8 or uint8, and the factors of any shape by
    which products of these integers will be multiplied: NaN where x has a number that is not
    finite, which no integer stands for.

    What exceeds the levels becomes the nearest one, NaN the lowest. The scale is positive."""
    most = LEVELS[signed]
    y = np.asarray(np.multiply(x, np.reciprocal(scale)))
    np.rint(y, out=y)
    np.fmin(np.fmax(y, -most if signed else 0, out=y), most, out=y)
    checked = factors.copy() if np.isfinite(x).all() else np.full_like(factors, np.nan)
    return y.astype(INT8 if signed else UINT8), checked


def _check(terms: int, filters: int, x: Spec, w: Spec, *vectors: Spec) -> None:
    """TypeError or ValueError for factors that are no 8-bit integers, for sums of more terms than
    32 bits hold, and for a scale or bias other than one number for each filter."""
    if x.dtype not in (INT8, UINT8) or w.dtype != INT8:
        raise TypeError(f"expected x of int8 or uint8 and w of int8, got {x.dtype}, {w.dtype}")
    if terms > MOST_TERMS:
        raise ValueError(f"expected sums of at most {MOST_TERMS} products, got {terms}")
    for name, a in zip(("scale", "bias"), vectors, strict=False):
        if a.shape != (filters,):
            raise ValueError(f"expected a {name} of shape {(filters,)}, got {a.shape}")
        if a.dtype not in KERNEL_TYPES or a.dtype != vectors[0].dtype:
            raise TypeError(f"expected scale and bias of one type, got {[*map(str, vectors)]}")


def _cost(y: Spec, terms: int, b: tuple[Spec, ...]) -> Cost:
    """Return `terms` MACs for each result, a multiplication by its scale and the bias' addition."""
    return Cost(macs=y.size * terms, mul=y.size, add=y.size * len(b))


def _factors(x: NDArray, w: NDArray) -> tuple[NDArray, NDArray]:
    """Return both as floating-point numbers, for BLAS, of the narrowest type in which no sum of
    products of theirs is rounded: none exceeds the largest x times a filter's sum of weights."""
    weights = np.abs(w.reshape(len(w), -1).astype(np.int64)).sum(1).max(initial=0)
    top = 255 if x.dtype == UINT8 else 128
    dtype = FLOAT32 if top * weights <= EXACT else FLOAT64
    return x.astype(dtype), w.astype(dtype)


def _scaled(sums: NDArray, scale: NDArray, b: tuple[NDArray, ...]) -> NDArray:
    """Return sums (.., filters) times the scale, plus the bias, each step rounded."""
    y = sums.astype(scale.dtype, copy=False)
    y *= scale
    for bias in b:
        y += bias
    return y


def _convolution(x: Spec, w: Spec, scale: Spec, *b: Spec, **attrs: Any) -> Spec:
    """Shape rule of quantized_conv2d: conv2d's, in the type of the scale."""
    y = convolved(x._replace(dtype=FLOAT32), w._replace(dtype=FLOAT32), **attrs)
    _check(prod(w.shape[1:]), w.shape[0], x, w, scale, *b)
    return y._replace(dtype=scale.dtype)


@primitive(
    infer=_convolution,
    cost=lambda y, x, w, scale, *b, **attrs: _cost(y, prod(w.shape[1:]), b),
)
def quantized_conv2d(
    x: NDArray, w: NDArray, scale: NDArray, *b: NDArray, stride: Pair, padding: Padding,
    dilation: Pair, groups: int,
) -> NDArray:  # fmt: skip
    """Return `conv2d` of integers x (N, C, H, W) and w (M, C/groups, R, S), exact, then times
    scale (M,), plus one bias b (M,) or none."""
    sums = products(*_factors(x, w), stride, padding, dilation, groups)
    return _scaled(sums, scale, b).transpose(0, 3, 1, 2)


def _product(x: Spec, w: Spec, scale: Spec, *b: Spec) -> Spec:
    """Shape rule of quantized_linear. ValueError where input and weight do not fit."""
    if not x.shape or len(w.shape) != 2 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"expected input (.., C) and weight (M, C), got {x.shape} and {w.shape}")
    _check(w.shape[1], w.shape[0], x, w, scale, *b)
    return Spec((*x.shape[:-1], w.shape[0]), scale.dtype)


@primitive(infer=_product, cost=lambda y, x, w, scale, *b: _cost(y, x.shape[-1], b))
def quantized_linear(x: NDArray, w: NDArray, scale: NDArray, *b: NDArray) -> NDArray:
    """Return `linear` of integers x (.., C) and w (M, C), exact, then times scale (M,), plus one
    bias b (M,) or none."""
    left, right = _factors(x, w)
    return _scaled(multiplied(left, right.T), scale, b)
