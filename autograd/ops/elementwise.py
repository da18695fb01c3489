"""Arithmetic element by element, with NumPy's broadcasting; y is the result, dy its gradient.

Operands of different types are computed in the common one, see `rules.common`. Where an operand was
broadcast, its gradient is summed back to its shape by `fit`."""

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
from .shape import converted, full, zero


def fit(gradient: Value, spec: Spec) -> Value:
    """Return a gradient in the shape and type of its operand.

    It is summed over the axes along which the operand was broadcast. An operand that is not
    floating-point asks for no gradient, so its type is left as it is."""
    if gradient.shape != spec.shape:
        gradient = sum_to(gradient, shape=spec.shape)
    if not is_floating(spec.dtype):
        return gradient  # what is no floating-point number asks for no gradient
    return converted(gradient, spec.dtype)


@primitive(infer=broadcast, cost=each(add=1))
def add(x: NDArray, w: NDArray) -> NDArray:
    """Return x + w."""
    return together(np.add, x, w)


@add.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@add.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[1])


@primitive(infer=broadcast, cost=each(add=1))
def sub(x: NDArray, w: NDArray) -> NDArray:
    """Return x - w."""
    return together(np.subtract, x, w)


@sub.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@sub.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return neg(fit(dy, specs[1]))


@primitive(infer=broadcast, cost=each(mul=1))
def mul(x: NDArray, w: NDArray) -> NDArray:
    """Return the product x w, element by element."""
    return together(np.multiply, x, w)


@mul.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, w), specs[0])


@mul.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, x), specs[1])


@primitive(infer=quotient, cost=each(div=1))
def div(x: NDArray, w: NDArray) -> NDArray:
    """Return x / w, in float32 for integers; infinite or not a number where w is 0."""
    dtype = x.dtype if x.dtype == w.dtype else common(x, w)
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
    """Return -x."""
    return np.negative(x)


@neg.vjp("x")
def _(dy: Value) -> Value:
    return neg(dy)


@primitive(infer=lambda x, w: numeric(broadcast(x, w)), cost=each(exp=1))
def pow(x: NDArray, w: NDArray) -> NDArray:
    """Return x^w, not a number for a negative x with a fractional exponent, as in NumPy.

    ValueError for a negative power of integers by integers."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return together(np.power, x, w)


@pow.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    nothing = full(shape=(), dtype=specs[1].dtype, value=0.0)
    # x^0 is constant: an infinite dy must not become 0 times infinity.
    dy = where(eq(w, nothing), full(shape=(), dtype=dy.dtype, value=0.0), dy)
    return fit(mul(dy, power_slope(x, w)), specs[0])


@pow.vjp("w")
def _(dy: Value, x: Value, w: Value, y: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, mul(y, log_of_base(x, w))), specs[1])


@primitive(infer=broadcast, cost=each(exp=1, mul=1, add=1))
def power_slope(x: NDArray, w: NDArray) -> NDArray:
    """Return w x^(w-1), the derivative of x^w in x, and 0 where w is 0."""
    x, w = agreed(x, w)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Chosen, not multiplied: 0 times x^-1 would be NaN at x = 0.
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
    """Return log x, which times x^w is the derivative of x^w in w.

    It is 0 for x = 0 with w >= 0, where x^w is constant, as in torch."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(np.where((x == 0) & (w >= 0), 1, x), dtype=common(x, w))


@log_of_base.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    nothing, one = (full(shape=(), dtype=x.dtype, value=v) for v in (0.0, 1.0))
    # The denominator is replaced too, or 0 / 0 would be NaN.
    constant = bit_and(eq(x, nothing), ge(w, nothing))
    slope = div(where(constant, nothing, dy), where(constant, one, x))
    return fit(slope, specs[0])


@log_of_base.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])


@primitive(infer=floating, cost=each(exp=1))
def exp(x: NDArray) -> NDArray:
    """Return e^x."""
    with np.errstate(over="ignore"):
        return np.exp(x)


@exp.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return mul(dy, y)


@primitive(infer=floating, cost=each(exp=1))
def log(x: NDArray) -> NDArray:
    """Return the natural logarithm of x: -inf at 0, not a number below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(x)


@log.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return div(dy, x)


@primitive(infer=floating, cost=each(exp=1))
def sqrt(x: NDArray) -> NDArray:
    """Return the square root of x, not a number below 0."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(x)


@sqrt.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return div(dy, add(y, y))


@primitive(infer=floating, cost=each(exp=1))
def deviation(x: NDArray) -> NDArray:
    """Return the square root of a variance x, with slope 0 where it is 0, as in torch.

    The slope of a plain square root would be infinite there."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(x)


@deviation.vjp("x")
def _(dy: Value, y: Value) -> Value:
    nothing, one = (full(shape=(), dtype=y.dtype, value=v) for v in (0.0, 1.0))
    # Both the numerator and the denominator are chosen, or 0 / 0 would be NaN.
    flat = eq(y, nothing)
    return div(where(flat, nothing, dy), where(flat, one, add(y, y)))


@primitive(infer=floating, cost=each(exp=1))
def sin(x: NDArray) -> NDArray:
    """Return sin x, x in radians."""
    return np.sin(x)


@sin.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, cos(x))


@primitive(infer=floating, cost=each(exp=1))
def cos(x: NDArray) -> NDArray:
    """Return cos x, x in radians."""
    return np.cos(x)


@cos.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return neg(mul(dy, sin(x)))


@primitive(infer=same, cost=each(cmp=1))
def abs(x: NDArray) -> NDArray:
    """Return |x|, with slope 0 at 0."""
    return np.abs(x)


@abs.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, sign(x))


@primitive(infer=same, cost=each(cmp=1))
def sign(x: NDArray) -> NDArray:
    """Return -1, 0 or 1; 0 for NaN, as in torch."""
    return np.subtract(x > 0, x < 0, dtype=x.dtype)


@sign.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[0])


@primitive(infer=broadcast, cost=each(cmp=1))
def maximum(x: NDArray, w: NDArray) -> NDArray:
    """Return the larger of x and w; equal operands receive half the gradient each."""
    return together(np.maximum, x, w)


@maximum.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, x, w), specs[0])


@maximum.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, w, x), specs[1])


@primitive(infer=broadcast, cost=each(cmp=1))
def minimum(x: NDArray, w: NDArray) -> NDArray:
    """Return the smaller of x and w; equal operands receive half the gradient each."""
    return together(np.minimum, x, w)


@minimum.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, w, x), specs[0])


@minimum.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(share(dy, x, w), specs[1])


@primitive(infer=lambda dy, x, w: dy, cost=each(cmp=2, mul=1), outputs=("dx",))
def share(dy: NDArray, x: NDArray, w: NDArray) -> NDArray:
    """Return dx, the part of dy that x receives of a maximum of x and w.

    That is dy where x > w or either is NaN, half of it where they are equal, else 0."""
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
    """Return x limited to [low, high], where a bound may be None; slope 1 at the bounds too."""
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
    """Return x where the condition c holds, else w."""
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
    """Return x in memory of its own."""
    return np.array(x, order="K")


@copy.vjp("x")
def _(dy: Value) -> Value:
    return dy
