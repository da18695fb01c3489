"""Functions of numbers, which are both functions of the package and methods of a tensor.

Names and arguments are torch's. Operands are broadcast as in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ..dtypes import BOOL, is_floating
from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import rounding
from ..ops import shape as sh
from ..ops import transcendental as tr
from ..primitive import Primitive
from .operators import Operand, Operators

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "addcdiv",
    "addcmul",
    "allclose",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "cosh",
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
    "lt",
    "mul",
    "nan_to_num",
    "ne",
    "neg",
    "pow",
    "reciprocal",
    "remainder",
    "round",
    "rsqrt",
    "sign",
    "sinh",
    "square",
    "sub",
    "tan",
    "trunc",
]


F = TypeVar("F", bound=Callable[..., Any])


def _unary(primitive: Primitive) -> Callable[[Tensor], Tensor]:
    def function(input: Tensor) -> Tensor:
        y: Tensor = primitive(input)
        return y

    return _named(function, primitive)


def _real(primitive: Primitive) -> Callable[[Tensor], Tensor]:
    """Return a function of real numbers, which integers and truth values become."""

    def function(input: Tensor) -> Tensor:
        y: Tensor = primitive(input._real())
        return y

    return _named(function, primitive)


def _rounding(primitive: Primitive) -> Callable[[Tensor], Tensor]:
    """Return a function that leaves integers as they are."""

    def function(input: Tensor) -> Tensor:
        y: Tensor = primitive(input) if is_floating(input.dtype) else input.clone()
        return y

    return _named(function, primitive)


def _named(function: F, primitive: Primitive) -> F:
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


expm1, log1p, exp2 = _real(tr.expm1), _real(tr.log1p), _real(tr.exp2)
log2, log10 = _real(tr.log2), _real(tr.log10)
tan, asin, acos, atan = _real(tr.tan), _real(tr.asin), _real(tr.acos), _real(tr.atan)
sinh, cosh = _real(tr.sinh), _real(tr.cosh)
asinh, acosh, atanh = _real(tr.asinh), _real(tr.acosh), _real(tr.atanh)
erf, erfc = _real(tr.erf), _real(tr.erfc)
sign, neg = _unary(el.sign), _unary(el.neg)
floor, ceil, trunc = _rounding(rounding.floor), _rounding(rounding.ceil), _rounding(rounding.trunc)
atan2, fmod = _binary(tr.atan2), _binary(rounding.fmod)
remainder, floor_divide = _binary(rounding.remainder), _binary(rounding.floor_divide)
mul, pow = _binary(el.mul), _binary(el.pow)
abs, clamp, clip = Operators.abs, Operators.clamp, Operators.clip
eq, ne, lt = _binary(cp.eq), _binary(cp.ne), _binary(cp.lt)
le, gt, ge = _binary(cp.le), _binary(cp.gt), _binary(cp.ge)


def add(input: Tensor, other: Operand, *, alpha: float = 1) -> Tensor:
    """Return input + alpha other."""
    y: Tensor = el.add(input, other if alpha == 1 else other * alpha)
    return y


def sub(input: Tensor, other: Operand, *, alpha: float = 1) -> Tensor:
    """Return input - alpha other."""
    return add(input, other, alpha=-alpha)


def div(input: Tensor, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """Return input / other, rounded towards 0 ("trunc") or down ("floor"): of integers then to
    integers. ValueError for another mode."""
    if rounding_mode not in (None, "trunc", "floor"):
        raise ValueError(f"div: expected rounding_mode 'trunc' or 'floor', got {rounding_mode!r}")
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode is None:
        return cast("Tensor", el.div(input, other))
    kinds = input.dtype, other.dtype if hasattr(other, "dtype") else np.asarray(other).dtype
    if any(map(is_floating, kinds)):
        return trunc(input / other)
    return floor_divide(input - fmod(input, other), other)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Return input + value tensor1 tensor2."""
    return add(input, tensor1 * tensor2, alpha=value)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Return input + value tensor1 / tensor2."""
    return add(input, tensor1 / tensor2, alpha=value)


def clamp_min(input: Tensor, min: float) -> Tensor:
    """Return each element, or min where it is smaller."""
    return input.clamp(min=min)


def clamp_max(input: Tensor, max: float) -> Tensor:
    """Return each element, or max where it is larger."""
    return input.clamp(max=max)


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
    return reciprocal(input.sqrt())


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Return the nearest number with so many digits behind the point; of two the even one."""
    if not is_floating(input.dtype):
        return input.clone()
    if not decimals:
        return cast("Tensor", rounding.round(input))
    shift = 10.0 ** (decimals if decimals > 0 else -decimals)
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
    if isinstance(x, bool | int | float | np.generic):
        return cast("Tensor", sh.full(shape=(), dtype=BOOL, value=bool(x)))
    return cast("Tensor", cp.ne(x, sh.full(shape=(), dtype=x.dtype, value=0)))


def nan_to_num(
    input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """Return finite numbers: `nan` for what is none, and for infinities the largest and smallest of
    the type, or those that are given."""
    if not is_floating(input.dtype):
        return input.clone()
    most = float(np.nextafter(input.dtype.type(inf), input.dtype.type(0)))
    high, low = most if posinf is None else posinf, -most if neginf is None else neginf
    y = el.where(isnan(input), sh.constant(input, nan), input)
    y = el.where(cp.eq(input, inf), sh.constant(input, high), y)
    return cast("Tensor", el.where(cp.eq(input, -inf), sh.constant(input, low), y))


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
