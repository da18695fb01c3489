"""Arithmetic element by element, with NumPy's broadcasting. y is the result, dy its gradient."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import FLOAT32, is_floating
from ..ledger import Cost
from ..primitive import Value, primitive
from .compare import bit_and, eq, ge, within
from .reduce import sum_to
from .rules import (
    agreed,
    broadcast,
    common,
    each,
    floating,
    numeric,
    quotient,
    same,
    together,
)
from .shape import cast, full, zero


def fit(gradient: Value, spec: Spec) -> Value:
    """Sum a gradient over the axes along which its operand was broadcast, in the operand's type."""
    if gradient.shape != spec.shape:
        gradient = sum_to(gradient, shape=spec.shape)
    if gradient.dtype == spec.dtype or not is_floating(spec.dtype):
        return gradient  # what is no floating-point number asks for no gradient
    return cast(gradient, dtype=spec.dtype)


@primitive(infer=broadcast, cost=each(add=1))
def add(x: NDArray, w: NDArray) -> NDArray:
    """y = x + w."""
    return together(np.add, x, w)


@add.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@add.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[1])


@primitive(infer=broadcast, cost=each(add=1))
def sub(x: NDArray, w: NDArray) -> NDArray:
    """y = x - w."""
    return together(np.subtract, x, w)


@sub.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@sub.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return neg(fit(dy, specs[1]))


@primitive(infer=broadcast, cost=each(mul=1))
def mul(x: NDArray, w: NDArray) -> NDArray:
    """y = x w."""
    return together(np.multiply, x, w)


@mul.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, w), specs[0])


@mul.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, x), specs[1])


@primitive(infer=quotient, cost=each(div=1))
def div(x: NDArray, w: NDArray) -> NDArray:
    """y = x / w, of integers in float32; infinite or not a number for a w of 0."""
    dtype = x.dtype if x.dtype == w.dtype else common(x.dtype, w.dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.divide(x, w, dtype=dtype if is_floating(dtype) else FLOAT32)


@div.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(div(dy, w), specs[0])


@div.vjp("w")
def _(dy: Value, w: Value, y: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(neg(div(mul(dy, y), w)), specs[1])


@primitive(infer=same, cost=each(add=1))
def neg(x: NDArray) -> NDArray:
    """y = -x."""
    return np.negative(x)


@neg.vjp("x")
def _(dy: Value) -> Value:
    return neg(dy)


@primitive(infer=lambda x, w: numeric(broadcast(x, w)), cost=each(exp=1))
def pow(x: NDArray, w: NDArray) -> NDArray:
    """y = x^w; not a number for a negative x with a broken exponent, as in NumPy. ValueError for a
    negative power of integers by integers."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return together(np.power, x, w)


@pow.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    nothing = full(shape=(), dtype=specs[1].dtype, value=0.0)
    dy = where(eq(w, nothing), full(shape=(), dtype=dy.dtype, value=0.0), dy)
    return fit(mul(dy, power_slope(x, w)), specs[0])


@pow.vjp("w")
def _(dy: Value, x: Value, w: Value, y: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, mul(y, log_of_base(x, w))), specs[1])


@primitive(infer=broadcast, cost=each(exp=1, mul=1, add=1))
def power_slope(x: NDArray, w: NDArray) -> NDArray:
    """y = w x^(w-1), zero where w is zero."""
    x, w = agreed(x, w)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(w == 0, w, w * np.power(x, w - 1))


@power_slope.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=specs[1].dtype, value=1.0)
    return fit(mul(dy, mul(w, power_slope(x, sub(w, one)))), specs[0])


@power_slope.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=specs[1].dtype, value=1.0)
    less = sub(w, one)
    grown = mul(pow(x, less), add(one, mul(w, log_of_base(x, less))))
    return fit(mul(dy, grown), specs[1])


@primitive(infer=lambda x, w: floating(broadcast(x, w)), cost=each(exp=1, cmp=2))
def log_of_base(x: NDArray, w: NDArray) -> NDArray:
    """y = log x, which times x^w is the slope of that in w; but 0 for an x of 0 with w >= 0, where
    x^w is constant, as in torch."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(np.where((x == 0) & (w >= 0), 1, x), dtype=common(x.dtype, w.dtype))


@log_of_base.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    nothing, one = (full(shape=(), dtype=x.dtype, value=v) for v in (0.0, 1.0))
    constant = bit_and(eq(x, nothing), ge(w, nothing))
    slope = div(where(constant, nothing, dy), where(constant, one, x))
    return fit(slope, specs[0])


@log_of_base.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])


@primitive(infer=floating, cost=each(exp=1))
def exp(x: NDArray) -> NDArray:
    """y = e^x."""
    with np.errstate(over="ignore"):
        return np.exp(x)


@exp.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return mul(dy, y)


@primitive(infer=floating, cost=each(exp=1))
def log(x: NDArray) -> NDArray:
    """y = log x; -inf at 0, not a number below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(x)


@log.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, x)


@primitive(infer=floating, cost=each(exp=1))
def sqrt(x: NDArray) -> NDArray:
    """y = the square root of x."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(x)


@sqrt.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return div(dy, add(y, y))


@primitive(infer=floating, cost=each(exp=1))
def deviation(x: NDArray) -> NDArray:
    """y = the square root of a variance x, with slope 0 where that is 0, as in torch."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(x)


@deviation.vjp("x")
def _(dy: Value, y: Value) -> Value:
    nothing, one = (full(shape=(), dtype=y.dtype, value=v) for v in (0.0, 1.0))
    flat = eq(y, nothing)
    return div(where(flat, nothing, dy), where(flat, one, add(y, y)))


@primitive(infer=floating, cost=each(exp=1))
def sin(x: NDArray) -> NDArray:
    """y = sin x, x in radians."""
    return np.sin(x)


@sin.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, cos(x))


@primitive(infer=floating, cost=each(exp=1))
def cos(x: NDArray) -> NDArray:
    """y = cos x, x in radians."""
    return np.cos(x)


@cos.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return neg(mul(dy, sin(x)))


@primitive(infer=same, cost=each(cmp=1))
def abs(x: NDArray) -> NDArray:
    """y = |x|, with slope 0 at 0."""
    return np.abs(x)


@abs.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, sign(x))


@primitive(infer=same, cost=each(cmp=1))
def sign(x: NDArray) -> NDArray:
    """y = -1, 0 or 1; 0 for what is not a number, as in torch."""
    return np.subtract(x > 0, x < 0, dtype=x.dtype)


@sign.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[0])


@primitive(infer=broadcast, cost=each(cmp=1))
def maximum(x: NDArray, w: NDArray) -> NDArray:
    """y = the larger of x and w; equal operands share the gradient half and half."""
    return together(np.maximum, x, w)


@maximum.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, x, w), specs[0])


@maximum.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, w, x), specs[1])


@primitive(infer=broadcast, cost=each(cmp=1))
def minimum(x: NDArray, w: NDArray) -> NDArray:
    """y = the smaller of x and w; equal operands share the gradient half and half."""
    return together(np.minimum, x, w)


@minimum.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, w, x), specs[0])


@minimum.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, x, w), specs[1])


@primitive(infer=lambda dy, x, w: dy, cost=each(cmp=2, mul=1), outputs=("dx",))
def share(dy: NDArray, x: NDArray, w: NDArray) -> NDArray:
    """dx = dy, half of it where x = w, 0 where x < w; all of it beside what is not a number."""
    half = np.where(x == w, dy.dtype.type(0.5), dy.dtype.type(1))
    return np.where(x < w, dy.dtype.type(0), dy * half)


@share.vjp("dy")
def _(ddx: Value, x: Value, w: Value) -> Value:
    return share(ddx, x, w)


@share.vjp("x", "w")
def _(ddx: Value, specs: tuple[Spec, ...]) -> tuple[Value, ...]:
    return zero(specs[1]), zero(specs[2])


@primitive(infer=numeric, cost=each(cmp=2))
def clip(x: NDArray, *, low: float | None, high: float | None) -> NDArray:
    """y = x, or the bound that it passes, if that is not None; slope 1 at the bounds too."""
    y = x if low is None else np.maximum(x, x.dtype.type(low))
    return y if high is None else np.minimum(y, x.dtype.type(high))


@clip.vjp("x")
def _(dy: Value, x: Value, low: float | None, high: float | None) -> Value:
    zero = full(shape=(), dtype=dy.dtype, value=0.0)
    return where(within(x, low=low, high=high), dy, zero)


@primitive(
    infer=lambda c, x, w: Spec(broadcast(c, x, w).shape, broadcast(x, w).dtype), cost=each(cmp=1)
)
def where(c: NDArray, x: NDArray, w: NDArray) -> NDArray:
    """y = x where the condition c holds, else w."""
    return np.where(c, *agreed(x, w))


@where.vjp("x")
def _(dy: Value, c: Value, specs: tuple[Spec, ...]) -> Value:
    zero = full(shape=(), dtype=dy.dtype, value=0.0)
    return fit(where(c, dy, zero), specs[1])


@where.vjp("w")
def _(dy: Value, c: Value, specs: tuple[Spec, ...]) -> Value:
    zero = full(shape=(), dtype=dy.dtype, value=0.0)
    return fit(where(c, zero, dy), specs[2])


@primitive(infer=same, cost=lambda y, *s: Cost())
def copy(x: NDArray) -> NDArray:
    """y = x, in memory of its own."""
    return np.array(x, order="K")


@copy.vjp("x")
def _(dy: Value) -> Value:
    return dy
