"""Reductions, running sums and orders along axes, which are both functions of the package and
methods of a tensor.

Names and arguments are torch's. With `keepdim` reduced axes stay with extent 1. ValueError for axes
that do not exist."""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, cast
from typing import Any as Either

import numpy.typing as npt

from ..dtypes import INT64, plain
from ..ops import activation, gather, reduce, scan
from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import shape as sh
from ..primitive import Primitive
from .arguments import numpy_names
from .operators import Axis, Operators
from .selecting import Ordered

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "clone",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "diff",
    "dist",
    "flatten",
    "histc",
    "logsumexp",
    "max",
    "mean",
    "median",
    "min",
    "mode",
    "norm",
    "numel",
    "permute",
    "prod",
    "reshape",
    "squeeze",
    "std",
    "std_mean",
    "sum",
    "transpose",
    "unsqueeze",
    "var",
    "var_mean",
]

sum, mean, prod = Operators.sum, Operators.mean, Operators.prod
var, std = Operators.var, Operators.std
all, any = Operators.all, Operators.any
argmax, argmin = Operators.argmax, Operators.argmin
flatten, squeeze, unsqueeze = Operators.flatten, Operators.squeeze, Operators.unsqueeze
reshape, permute, transpose = Operators.reshape, Operators.permute, Operators.transpose
clone, numel = Operators.clone, Operators.numel


def _over(primitive: Primitive, input: Tensor, dim: Axis, keepdim: bool) -> Tensor:
    """Return a reduction over axes, all for None."""
    axes = reduce.axes_of(primitive.name, dim, len(input.shape))
    y: Tensor = primitive(input, axes=axes)
    return y.reshape(reduce.kept_shape(input.spec, axes)) if keepdim else y


@numpy_names
def amax(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the largest values over axes, all for None; equal ones share the gradient."""
    return _over(reduce.amax, input, dim, keepdim)


@numpy_names
def amin(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the smallest values over axes, all for None; equal ones share the gradient."""
    return _over(reduce.amin, input, dim, keepdim)


@numpy_names
def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Either:
    """Return the largest value; along an axis (values, positions), of equal ones the first; with
    another tensor in place of the axis, the larger of each pair. See also `amax`."""
    if dim is None:
        return amax(input)
    dim = plain(dim)
    if not isinstance(dim, int):
        return el.maximum(input, dim)
    return _chosen("max", reduce.argmax, input, dim, keepdim)


@numpy_names
def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Either:
    """Return the smallest value; along an axis (values, positions), of equal ones the first; with
    another tensor in place of the axis, the smaller of each pair. See also `amin`."""
    if dim is None:
        return amin(input)
    dim = plain(dim)
    if not isinstance(dim, int):
        return el.minimum(input, dim)
    return _chosen("min", reduce.argmin, input, dim, keepdim)


def _chosen(name: str, how: Primitive, input: Tensor, dim: int, keepdim: bool) -> Ordered:
    """Return the elements that a primitive chooses along an axis, and their positions."""
    x = input if input.shape else input.reshape(1)
    axis = sh.axis_of(name, dim, len(x.shape))
    return _taken(input, x, axis, how(x, axis=axis).unsqueeze(axis), keepdim)


def _taken(input: Tensor, x: Tensor, axis: int, position: Tensor, keepdim: bool) -> Ordered:
    """Return the elements at a position along an axis; of a number, without axes."""
    values: Tensor = gather.gather(x, position, axis=axis)
    keeps = keepdim and bool(input.shape)
    return Ordered(*[y if keeps else y.squeeze(axis) for y in (values, position)])


def count_nonzero(input: Tensor, dim: Axis = None) -> Tensor:
    """Return how many elements over axes are not 0."""
    nothing = sh.full(shape=(), dtype=input.dtype, value=0)
    return cast("Tensor", cp.ne(input, nothing)).sum(dim)


@numpy_names
def logsumexp(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return log(the sum of e^x over axes), finite for any finite x."""
    return _over(activation.logsumexp, input, dim, keepdim)


@numpy_names
def norm(input: Tensor, p: float | str = "fro", dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the p-norm over axes, all of them for None: (the sum of |x|^p)^(1/p).

    p = inf gives the largest |x|, -inf the smallest, 0 the number of elements that are not 0; "fro"
    is 2. The gradient is 0 where the norm is. ValueError for another name and axes that do not
    exist."""
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"norm: expected p to be a number or 'fro', got {p!r}")
    order = 2.0 if isinstance(p, str) else float(p)
    if order == 2:
        return cast("Tensor", el.deviation((input * input).sum(dim, keepdim)))
    far = input.abs()
    if order in (inf, -inf):
        return amax(far, dim, keepdim) if order > 0 else amin(far, dim, keepdim)
    if order == 0:
        return (far > 0).astype(input.dtype).sum(dim, keepdim)
    if order == 1:
        return far.sum(dim, keepdim)
    total = (far**order).sum(dim, keepdim)
    # The root has an infinite slope at 0, which must not meet a slope of 0.
    nothing, one = total <= 0, sh.constant(total, 1.0)
    y: Tensor = el.where(nothing, total, el.where(nothing, one, total) ** (1 / order))
    return y


@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: npt.DTypeLike | None = None) -> Tensor:
    """Return the sum of the elements up to each one along an axis; of integers in int64."""
    axis, x = _scanned("cumsum", input, dim, dtype)
    return cast("Tensor", scan.cumsum(x, axis=axis, reverse=False)).reshape(input.shape)


def cumprod(input: Tensor, dim: int, *, dtype: npt.DTypeLike | None = None) -> Tensor:
    """Return the product of the elements up to each one along an axis; of integers in int64.

    The gradient has no derivative."""
    axis, x = _scanned("cumprod", input, dim, dtype)
    return cast("Tensor", scan.cumprod(x, axis=axis)).reshape(input.shape)


def _scanned(name: str, input: Tensor, dim: int, dtype: npt.DTypeLike | None) -> tuple[int, Tensor]:
    """Return an axis, and what runs along it: of a number, one element."""
    x = input._counted(INT64, dtype)
    x = x if x.shape else x.reshape(1)
    return sh.axis_of(name, dim, len(x.shape)), x


@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Either:
    """Return the median, of an even number the lower one of the middle; not a number if any is not.

    Along an axis, (values, indices). ValueError for no elements."""
    if dim is None:
        return median(input.reshape(-1), 0)[0]
    x = input if input.shape else input.reshape(1)
    axis = sh.axis_of("median", dim, len(x.shape))
    size = x.shape[axis]
    if not size:
        raise ValueError(f"median: expected elements along axis {dim}, got shape {input.shape}")
    half = gather.order(x, axis=axis, descending=False, count=(size + 1) // 2)
    lead = (slice(None),) * axis
    position = half[*lead, -1:]
    broken = cast("Tensor", cp.ne(x, x))
    first = reduce.argmax(broken, axis=axis).unsqueeze(axis)
    position = el.where(broken.any(axis, True), first, position)
    return _taken(input, x, axis, position, keepdim)


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Ordered:
    """Return the most frequent values along an axis, of equally frequent ones the least, and where
    they occur last. ValueError for no elements."""
    x = input if input.shape else input.reshape(1)
    axis = sh.axis_of("mode", dim, len(x.shape))
    size, lead = x.shape[axis], (slice(None),) * axis
    if not size:
        raise ValueError(f"mode: expected elements along axis {dim}, got shape {input.shape}")
    order = gather.order(x, axis=axis, descending=False, count=size)
    in_order = gather.gather(x, order, axis=axis)
    changes = cp.ne(in_order[*lead, 1:], in_order[*lead, :-1]).astype(INT64)
    run = cumsum(sh.concatenate(order[*lead, :1] * 0, changes, axis=axis), axis)
    ones = sh.full(shape=x.shape, dtype=INT64, value=1)
    lengths = gather.scatter_sum(ones, run, axis=axis, shape=x.shape)
    longest = reduce.argmax(lengths, axis=axis).unsqueeze(axis)
    last = gather.gather(cumsum(lengths, axis), longest, axis=axis) - 1
    return _taken(input, x, axis, gather.gather(order, last, axis=axis), keepdim)


def std_mean(
    input: Tensor, dim: Axis = None, unbiased: bool = True, keepdim: bool = False, *,
    correction: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return standard deviations and means over axes, all for None."""
    std = input.std(dim, unbiased, keepdim, correction=correction)
    return std, input.mean(None if isinstance(dim, bool) else dim, keepdim)


def var_mean(
    input: Tensor, dim: Axis = None, unbiased: bool = True, keepdim: bool = False, *,
    correction: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return variances and means over axes, all for None."""
    var = input.var(dim, unbiased, keepdim, correction=correction)
    return var, input.mean(None if isinstance(dim, bool) else dim, keepdim)


def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Return the differences of neighbours along an axis, n times."""
    axis = sh.axis_of("diff", dim, len(input.shape))
    lead = (slice(None),) * axis
    for _ in range(n):
        input = input[*lead, 1:] - input[*lead, :-1]
    return input


def dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norm of input - other, over all elements."""
    return norm(input - other, p)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Return how many elements fall into each of `bins` equal intervals from min to max, or from
    the smallest to the largest element where these are equal. Others do not count.

    ValueError for no bins, bounds in the wrong order, and elements that are not finite where these
    give the bounds."""
    if bins < 1 or min > max:
        raise ValueError(f"histc: expected bins > 0 and min <= max, got {bins}, {min} and {max}")
    x = input.detach().reshape(-1)
    low, high = (min, max) if min < max else (amin(x).item(), amax(x).item())
    if not isfinite(high - low):
        raise ValueError(f"histc: expected finite elements, got {low} to {high}")
    if low == high:
        low, high = low - 1, high + 1
    inside = cast("Tensor", cp.within(x, low=float(low), high=float(high)))
    place = el.where(inside, x - low, sh.constant(x, 0.0)) * (bins / (high - low))
    index = cast("Tensor", place).clamp(0, bins - 1).astype(INT64)
    y: Tensor = gather.scatter_sum(inside.astype(x.dtype), index, axis=0, shape=(bins,))
    return y
