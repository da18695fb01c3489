"""Functions that are a few others, and other names of them; all are methods too."""

from __future__ import annotations

from math import inf, pi, prod
from typing import TYPE_CHECKING, cast

import numpy as np

from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import shape as sh
from . import mathematics as m
from . import reducing as r
from .operators import Axis, Operand

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "absolute",
    "deg2rad",
    "divide",
    "greater",
    "greater_equal",
    "hypot",
    "inner",
    "less",
    "less_equal",
    "logaddexp",
    "logit",
    "multiply",
    "nanmean",
    "nansum",
    "narrow",
    "negative",
    "not_equal",
    "rad2deg",
    "ravel",
    "select",
    "subtract",
    "take_along_dim",
    "true_divide",
    "xlogy",
]

absolute, negative = m.abs, m.neg
subtract, multiply, divide, true_divide = m.sub, m.mul, m.div, m.div
greater, greater_equal, less, less_equal, not_equal = m.gt, m.ge, m.lt, m.le, m.ne


def maximum(input: Operand, other: Operand) -> Tensor:
    """Return the larger of each pair; equal ones receive half the gradient each."""
    return cast("Tensor", el.maximum(input, other))


def minimum(input: Operand, other: Operand) -> Tensor:
    """Return the smaller of each pair; equal ones receive half the gradient each."""
    return cast("Tensor", el.minimum(input, other))


def deg2rad(input: Tensor) -> Tensor:
    """Return degrees in radians."""
    return input * (pi / 180)


def rad2deg(input: Tensor) -> Tensor:
    """Return radians in degrees."""
    return input * (180 / pi)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """Return sqrt(input^2 + other^2), with gradient 0 at 0; infinite if one of both is."""
    endless = (input == inf) | (input == -inf) | (other == inf) | (other == -inf)
    root = el.deviation(input * input + other * other)
    return cast("Tensor", el.where(endless, inf, root))


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """Return log(e^input + e^other), finite for finite numbers."""
    shape = np.broadcast_shapes(input.shape, other.shape)
    pair = [x.expand(*shape).unsqueeze(0) for x in (input, other)]
    return r.logsumexp(sh.concatenate(*pair, axis=0), 0)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """Return log(x / (1 - x)), of x limited to [eps, 1 - eps] where eps is given."""
    x = input if eps is None else input.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


def xlogy(input: Operand, other: Operand) -> Tensor:
    """Return input log(other), 0 where the input is 0; at least one is a tensor."""
    nothing = cp.bit_and(cp.eq(input, 0.0), cp.le(other, 0.0))
    logarithms = cast("Tensor", el.where(nothing, 1.0, other))._real().log()
    return cast("Tensor", el.mul(input, logarithms))


def nansum(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return sums over axes, all for None, of the elements that are numbers."""
    return _numbers(input).sum(dim, keepdim)


def nanmean(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return means over axes, all for None, of the elements that are numbers."""
    return nansum(input, dim, keepdim) / (~m.isnan(input)).sum(dim, keepdim).astype(input.dtype)


def _numbers(x: Tensor) -> Tensor:
    return cast("Tensor", el.where(m.isnan(x), sh.constant(x, 0.0), x))


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Return the sums of products over both last axes. ValueError where these differ."""
    if not input.shape or not other.shape:
        return input * other
    if input.shape[-1] != other.shape[-1]:
        raise ValueError(f"inner: expected one last extent, got {input.shape} and {other.shape}")
    rows = other.reshape(-1, other.shape[-1])
    y = input.reshape(-1, input.shape[-1]) @ rows.T
    return y.reshape((*input.shape[:-1], *other.shape[:-1]))


def ravel(input: Tensor) -> Tensor:
    """Return all elements in one row."""
    return input.reshape(prod(input.shape))


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Return `length` parts along an axis from a start. ValueError where there are not so many."""
    axis = sh.axis_of("narrow", dim, len(input.shape))
    size = input.shape[axis]
    first = start + size if start < 0 else start
    if not (first >= 0 and length >= 0 and first + length <= size):
        raise ValueError(
            f"narrow: expected start and length within {size}, got {start} and {length}"
        )
    return input[*(slice(None),) * axis, first : first + length]


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Return one part along an axis, without that axis."""
    return input[*(slice(None),) * sh.axis_of("select", dim, len(input.shape)), index]


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return the elements at positions along an axis, of the flattened tensor for None."""
    if dim is None:
        return ravel(input).gather(0, ravel(indices))
    return input.gather(dim, indices)
