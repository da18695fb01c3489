"""Elementary functions element by element, with their inverses, and the error function.

Outside of its domain a function is not a number, and at a pole infinite, as in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt

import numpy as np

from .. import gaussian
from ..array import NDArray, Spec
from ..primitive import Primitive, Value, primitive
from .compare import eq
from .elementwise import add, div, exp, fit, mul, neg, sub, where
from .elementwise import sqrt as root
from .reduce import scale
from .rules import agreed, broadcast, each, floating
from .shape import constant, full


def _function(of: Callable[[NDArray], NDArray], name: str, text: str) -> Primitive:
    """Return the primitive of a function."""

    def reference(x: NDArray) -> NDArray:
        with np.errstate(all="ignore"):
            return of(x)

    reference.__name__, reference.__doc__ = name, text
    return primitive(infer=floating, cost=each(exp=1))(reference)


expm1 = _function(np.expm1, "expm1", "Return e^x - 1, exact for small x.")
log1p = _function(np.log1p, "log1p", "Return log(1 + x), exact for small x.")
exp2 = _function(np.exp2, "exp2", "Return 2^x.")
log2 = _function(np.log2, "log2", "Return the logarithm of x to base 2.")
log10 = _function(np.log10, "log10", "Return the logarithm of x to base 10.")
tan = _function(np.tan, "tan", "Return tan x, x in radians.")
asin = _function(np.arcsin, "asin", "Return the angle in [-pi / 2, pi / 2] whose sine is x.")
acos = _function(np.arccos, "acos", "Return the angle in [0, pi] whose cosine is x.")
atan = _function(np.arctan, "atan", "Return the angle in (-pi / 2, pi / 2) whose tangent is x.")
sinh = _function(np.sinh, "sinh", "Return the hyperbolic sine (e^x - e^-x) / 2.")
cosh = _function(np.cosh, "cosh", "Return the hyperbolic cosine (e^x + e^-x) / 2.")
asinh = _function(np.arcsinh, "asinh", "Return the number whose hyperbolic sine is x.")
acosh = _function(np.arccosh, "acosh", "Return the number >= 0 whose hyperbolic cosine is x.")
atanh = _function(np.arctanh, "atanh", "Return the number whose hyperbolic tangent is x.")
erf = _function(gaussian.erf, "erf", "Return the error function of x, see `gaussian.py`.")
erfc = _function(gaussian.erfc, "erfc", "Return 1 - erf x, exact where it is small.")


def _square_and(sign: int, x: Value) -> Value:
    """Return 1 + x^2, or 1 - x^2 = (1 - x) (1 + x), which keeps its digits."""
    one = constant(x, 1.0)
    return add(one, mul(x, x)) if sign > 0 else mul(sub(one, x), add(one, x))


@expm1.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return mul(dy, add(y, constant(y, 1.0)))


@log1p.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, add(x, constant(x, 1.0)))


@exp2.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return scale(mul(dy, y), factor=log(2))


@log2.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return scale(div(dy, x), factor=1 / log(2))


@log10.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return scale(div(dy, x), factor=1 / log(10))


@tan.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return mul(dy, _square_and(1, y))


@asin.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, root(_square_and(-1, x)))


@acos.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return neg(div(dy, root(_square_and(-1, x))))


@atan.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, _square_and(1, x))


@sinh.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, cosh(x))


@cosh.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, sinh(x))


@asinh.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, root(_square_and(1, x)))


@acosh.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, root(neg(_square_and(-1, x))))


@atanh.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, _square_and(-1, x))


def _bell(x: Value) -> Value:
    """Return the derivative of the error function."""
    return scale(exp(neg(mul(x, x))), factor=2 / sqrt(pi))


@erf.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, _bell(x))


@erfc.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return neg(mul(dy, _bell(x)))


@primitive(infer=lambda x, w: floating(broadcast(x, w)), cost=each(exp=1, div=1))
def atan2(x: NDArray, w: NDArray) -> NDArray:
    """Return the angle in [-pi, pi] of the point (w, x), whose tangent is x / w."""
    return np.arctan2(*agreed(x, w))


@atan2.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(div(mul(dy, w), _squares(x, w)), specs[0])


@atan2.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(neg(div(mul(dy, x), _squares(x, w))), specs[1])


def _squares(x: Value, w: Value) -> Value:
    """Return x^2 + w^2, but 1 at the origin, where the gradients of the angle are 0 as in torch."""
    squares = add(mul(x, x), mul(w, w))
    zero, one = (full(shape=(), dtype=squares.dtype, value=value) for value in (0.0, 1.0))
    return where(eq(squares, zero), one, squares)
