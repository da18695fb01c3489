"""Functions of numbers, which are both functions of the package and methods of a tensor.

Names and arguments are torch's. Operands are broadcast as in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

from .dtypes import BOOL, INT64, is_floating
from .operators import Axis, Operand, Operators
from .ops import activation, gather, reduce, rounding, scan
from .ops import compare as cp
from .ops import elementwise as el
from .ops import shape as sh
from .ops import transcendental as tr
from .primitive import Primitive
from .selecting import Ordered

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "allclose",
    "amax",
    "amin",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "clamp",
    "clip",
    "cosh",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "div",
    "eq",
    "equal",
    "erf",
    "erfc",
    "exp2",
    "expm1",
    "floor",
    "floor_divide",
    "fmod",
    "frac",
    "ge",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lerp",
    "log1p",
    "log2",
    "log10",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "lt",
    "mean",
    "median",
    "mul",
    "ne",
    "neg",
    "norm",
    "pow",
    "prod",
    "reciprocal",
    "remainder",
    "round",
    "rsqrt",
    "sign",
    "sinh",
    "square",
    "std",
    "sub",
    "sum",
    "tan",
    "trunc",
    "var",
]


def _unary(primitive: Primitive) -> Callable[[Tensor], Tensor]:
    def function(input: Tensor) -> Tensor:
        y: Tensor = primitive(input)
        return y

    function.__name__ = function.__qualname__ = primitive.name
    function.__doc__ = primitive.__doc__
    return function


def _binary(primitive: Primitive) -> Callable[[Tensor, Operand], Tensor]:
    def function(input: Tensor, other: Operand) -> Tensor:
        y: Tensor = primitive(input, other)
        return y

    function.__name__ = function.__qualname__ = primitive.name
    function.__doc__ = primitive.__doc__
    return function


expm1, log1p, exp2 = _unary(tr.expm1), _unary(tr.log1p), _unary(tr.exp2)
log2, log10 = _unary(tr.log2), _unary(tr.log10)
tan, asin, acos, atan = _unary(tr.tan), _unary(tr.asin), _unary(tr.acos), _unary(tr.atan)
sinh, cosh = _unary(tr.sinh), _unary(tr.cosh)
asinh, acosh, atanh = _unary(tr.asinh), _unary(tr.acosh), _unary(tr.atanh)
erf, erfc = _unary(tr.erf), _unary(tr.erfc)
sign, neg = _unary(el.sign), _unary(el.neg)
floor, ceil, trunc = _unary(rounding.floor), _unary(rounding.ceil), _unary(rounding.trunc)
atan2, fmod = _binary(tr.atan2), _binary(rounding.fmod)
remainder, floor_divide = _binary(rounding.remainder), _binary(rounding.floor_divide)
mul, div, pow = _binary(el.mul), _binary(el.div), _binary(el.pow)
abs, clamp, clip = Operators.abs, Operators.clamp, Operators.clip
sum, mean, prod = Operators.sum, Operators.mean, Operators.prod
var, std = Operators.var, Operators.std
eq, ne, lt = _binary(cp.eq), _binary(cp.ne), _binary(cp.lt)
le, gt, ge = _binary(cp.le), _binary(cp.gt), _binary(cp.ge)


def add(input: Tensor, other: Operand, *, alpha: float = 1) -> Tensor:
    """Return input + alpha other."""
    y: Tensor = el.add(input, other if alpha == 1 else other * alpha)
    return y


def sub(input: Tensor, other: Operand, *, alpha: float = 1) -> Tensor:
    """Return input - alpha other."""
    return add(input, other, alpha=-alpha)


def square(input: Tensor) -> Tensor:
    """Return x^2."""
    y: Tensor = el.mul(input, input)
    return y


def reciprocal(input: Tensor) -> Tensor:
    """Return 1 / x, infinite at 0."""
    y: Tensor = el.div(1.0, input)
    return y


def rsqrt(input: Tensor) -> Tensor:
    """Return 1 / sqrt(x): infinite at 0, not a number below."""
    return reciprocal(el.sqrt(input))


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Return the nearest number with so many digits behind the point; of two the even one."""
    if not decimals:
        return cast("Tensor", rounding.round(input))
    shift = 10.0 ** max(decimals, -decimals)
    y = rounding.round(input * shift if decimals > 0 else input / shift)
    return cast("Tensor", y / shift if decimals > 0 else y * shift)


def frac(input: Tensor) -> Tensor:
    """Return x less `trunc` x."""
    y: Tensor = el.sub(input, rounding.trunc(input))
    return y


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """Return input + weight (end - input)."""
    y: Tensor = el.add(input, el.mul(el.sub(end, input), weight))
    return y


def isnan(input: Tensor) -> Tensor:
    """Return where x is not a number."""
    y: Tensor = cp.ne(input, input)
    return y


def isinf(input: Tensor) -> Tensor:
    """Return where x is infinite."""
    y: Tensor = cp.eq(el.abs(input), inf) if is_floating(input.dtype) else cp.ne(input, input)
    return y


def isfinite(input: Tensor) -> Tensor:
    """Return where x is a number, and not infinite."""
    y: Tensor = cp.lt(el.abs(input), inf) if is_floating(input.dtype) else cp.eq(input, input)
    return y


def _truth(x: Operand) -> Tensor:
    """Return where x is not 0."""
    if isinstance(x, bool | int | float):
        return cast("Tensor", sh.full(shape=(), dtype=BOOL, value=bool(x)))
    return cast("Tensor", cp.ne(x, sh.full(shape=(), dtype=x.dtype, value=0)))


def logical_not(input: Tensor) -> Tensor:
    """Return where x is 0."""
    return ~_truth(input)


def logical_and(input: Tensor, other: Operand) -> Tensor:
    """Return where neither is 0."""
    y: Tensor = cp.bit_and(_truth(input), _truth(other))
    return y


def logical_or(input: Tensor, other: Operand) -> Tensor:
    """Return where at least one is not 0."""
    y: Tensor = cp.bit_or(_truth(input), _truth(other))
    return y


def logical_xor(input: Tensor, other: Operand) -> Tensor:
    """Return where just one is not 0."""
    y: Tensor = cp.bit_xor(_truth(input), _truth(other))
    return y


def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Return where |input - other| <= atol + rtol |other|, or both are equal; with `equal_nan` also
    where both are no numbers."""
    options = {"rtol": float(rtol), "atol": float(atol), "equal_nan": bool(equal_nan)}
    y: Tensor = cp.isclose(input, other, **options)
    return y


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Tell whether all numbers are close, see `isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all().item())


def equal(input: Tensor, other: Tensor) -> bool:
    """Tell whether shapes and all numbers are equal."""
    return input.shape == other.shape and bool(eq(input, other).all().item())


def amax(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the largest values over axes, all for None; equal ones share the gradient."""
    return input.max(dim, keepdim)


def amin(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the smallest values over axes, all for None; equal ones share the gradient."""
    return input.min(dim, keepdim)


def count_nonzero(input: Tensor, dim: Axis = None) -> Tensor:
    """Return how many elements over axes are not 0."""
    return _truth(input).sum(dim)


def logsumexp(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return log(the sum of e^x over axes), finite for any finite x."""
    axes = reduce.axes_of("logsumexp", dim, len(input.shape))
    y: Tensor = activation.logsumexp(input, axes=axes)
    return y.reshape(reduce.kept_shape(input.spec, axes)) if keepdim else y


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
        return far.max(dim, keepdim) if order > 0 else far.min(dim, keepdim)
    if order == 0:
        return (far > 0).astype(input.dtype).sum(dim, keepdim)
    if order == 1:
        return far.sum(dim, keepdim)
    total = (far**order).sum(dim, keepdim)
    # The root has an infinite slope at 0, which must not meet a slope of 0.
    nothing, one = total <= 0, sh.constant(total, 1.0)
    y: Tensor = el.where(nothing, total, el.where(nothing, one, total) ** (1 / order))
    return y


def cumsum(input: Tensor, dim: int) -> Tensor:
    """Return the sum of the elements up to each one along an axis; of integers in int64."""
    axis, x = _scanned("cumsum", input, dim)
    return cast("Tensor", scan.cumsum(x, axis=axis, reverse=False)).reshape(input.shape)


def cumprod(input: Tensor, dim: int) -> Tensor:
    """Return the product of the elements up to each one along an axis; of integers in int64.

    The gradient has no derivative."""
    axis, x = _scanned("cumprod", input, dim)
    return cast("Tensor", scan.cumprod(x, axis=axis)).reshape(input.shape)


def _scanned(name: str, input: Tensor, dim: int) -> tuple[int, Tensor]:
    """Return an axis, and what runs along it: of a number, one element."""
    x = input if is_floating(input.dtype) else input.astype(INT64)
    x = x if x.shape else x.reshape(1)
    return sh.axis_of(name, dim, len(x.shape)), x


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
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
    broken = isnan(x)
    first = reduce.argmax(broken, axis=axis).unsqueeze(axis)
    position = el.where(broken.any(axis, True), first, position)
    values = gather.gather(x, position, axis=axis)
    keeps = keepdim and bool(input.shape)
    return Ordered(*[y if keeps else y.squeeze(axis) for y in (values, position)])
