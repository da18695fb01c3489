"""Arithmetic element by element, with NumPy's broadcasting. y is the result, dy its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Primitive, Value, primitive
from .reduce import sum_to
from .shape import full, zero

BOOL = np.dtype(bool)


def broadcast(*specs: Spec) -> Spec:
    """Shape rule of every elementwise operation. ValueError for shapes that do not broadcast."""
    try:
        shape = np.broadcast_shapes(*[s.shape for s in specs])
    except ValueError:
        shapes = " and ".join(str(s.shape) for s in specs)
        raise ValueError(f"shapes {shapes} do not broadcast") from None
    return Spec(shape, np.result_type(*[s.dtype for s in specs]))


def same(x: Spec, **attrs: Any) -> Spec:
    """Shape rule: as the operand."""
    return x


def floating(x: Spec, **attrs: Any) -> Spec:
    """Shape rule of functions that are defined on floating-point numbers. TypeError for others."""
    if x.dtype.kind != "f":
        raise TypeError(f"expected floating-point numbers, got {x.dtype}")
    return x


def truth(*specs: Spec) -> Spec:
    """Shape rule of comparisons."""
    return Spec(broadcast(*specs).shape, BOOL)


def each(**kinds: int) -> Callable[..., Cost]:
    """Cost rule: so many operations of each kind for every element of the (first) result."""

    def rule(y: Any, *specs: Spec, **attrs: Any) -> Cost:
        size = (y if isinstance(y, Spec) else y[0]).size
        return Cost(**{kind: n * size for kind, n in kinds.items()})

    return rule


def fit(gradient: Value, spec: Spec) -> Value:
    """Sum a gradient over the axes along which its operand was broadcast, in the operand's type."""
    if gradient.shape != spec.shape:
        gradient = sum_to(gradient, shape=spec.shape)
    return gradient if gradient.dtype == spec.dtype else cast(gradient, dtype=spec.dtype)


@primitive(infer=broadcast, cost=each(add=1))
def add(x: NDArray, w: NDArray) -> NDArray:
    """y = x + w."""
    return np.add(x, w)


@add.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@add.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[1])


@primitive(infer=broadcast, cost=each(add=1))
def sub(x: NDArray, w: NDArray) -> NDArray:
    """y = x - w."""
    return np.subtract(x, w)


@sub.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@sub.vjp("w")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return neg(fit(dy, specs[1]))


@primitive(infer=broadcast, cost=each(mul=1))
def mul(x: NDArray, w: NDArray) -> NDArray:
    """y = x w."""
    return np.multiply(x, w)


@mul.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, w), specs[0])


@mul.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, x), specs[1])


@primitive(infer=lambda x, w: floating(broadcast(x, w)), cost=each(div=1))
def div(x: NDArray, w: NDArray) -> NDArray:
    """y = x / w."""
    return np.divide(x, w)


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


@primitive(infer=lambda x, w: floating(broadcast(x, w)), cost=each(exp=1))
def pow(x: NDArray, w: NDArray) -> NDArray:
    """y = x^w; not a number for a negative x with a broken exponent, as in NumPy."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.power(x, w)


@pow.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, power_slope(x, w)), specs[0])


@pow.vjp("w")
def _(dy: Value, x: Value, y: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(mul(dy, mul(y, log_or_zero(x))), specs[1])


@primitive(infer=broadcast, cost=each(exp=1, mul=1, add=1))
def power_slope(x: NDArray, w: NDArray) -> NDArray:
    """y = w x^(w-1), zero where w is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(w == 0, w, w * np.power(x, w - 1)).astype(np.result_type(x, w), copy=False)


@power_slope.vjp("x")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=specs[1].dtype, value=1.0)
    return fit(mul(dy, mul(w, power_slope(x, sub(w, one)))), specs[0])


@power_slope.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=specs[1].dtype, value=1.0)
    grown = mul(pow(x, sub(w, one)), add(one, mul(w, log_or_zero(x))))
    return fit(mul(dy, grown), specs[1])


@primitive(infer=floating, cost=each(exp=1))
def log_or_zero(x: NDArray) -> NDArray:
    """y = log x where x > 0, else 0: the slope of x^w in w, 0^w being constant for w > 0."""
    return np.log(np.where(x > 0, x, 1))


@log_or_zero.vjp("x")
def _(dy: Value, x: Value) -> Value:
    nothing, one = (full(shape=(), dtype=x.dtype, value=v) for v in (0.0, 1.0))
    positive = gt(x, nothing)
    return where(positive, div(dy, where(positive, x, one)), nothing)


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
    """y = -1, 0 or 1."""
    return np.sign(x)


@sign.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[0])


@primitive(infer=broadcast, cost=each(cmp=1))
def maximum(x: NDArray, w: NDArray) -> NDArray:
    """y = the larger of x and w; equal operands share the gradient half and half."""
    return np.maximum(x, w)


@maximum.vjp("x", "w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    return _shared(dy, share(x, w), specs)


@primitive(infer=broadcast, cost=each(cmp=1))
def minimum(x: NDArray, w: NDArray) -> NDArray:
    """y = the smaller of x and w; equal operands share the gradient half and half."""
    return np.minimum(x, w)


@minimum.vjp("x", "w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    return _shared(dy, share(w, x), specs)


@primitive(infer=broadcast, cost=each(cmp=2))
def share(x: NDArray, w: NDArray) -> NDArray:
    """y = 1 where x > w, 1/2 where x = w, else 0."""
    return ((x > w) + 0.5 * (x == w)).astype(np.result_type(x, w))


@share.vjp("x", "w")
def _(dy: Value, specs: tuple[Spec, ...]) -> tuple[Value, ...]:
    return tuple(map(zero, specs))


def _shared(dy: Value, part: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    mine = mul(dy, part)
    return fit(mine, specs[0]), fit(sub(dy, mine), specs[1])


@primitive(
    infer=lambda c, x, w: Spec(broadcast(c, x, w).shape, broadcast(x, w).dtype), cost=each(cmp=1)
)
def where(c: NDArray, x: NDArray, w: NDArray) -> NDArray:
    """y = x where the condition c holds, else w."""
    return np.where(c, x, w)


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


@primitive(infer=lambda x, *, dtype: Spec(x.shape, dtype), cost=lambda y, *s, **a: Cost())
def cast(x: NDArray, *, dtype: np.dtype[Any]) -> NDArray:
    """y = x in another type."""
    return x.astype(dtype)


@cast.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return cast(dy, dtype=specs[0].dtype)


def _comparison(function: Callable[[NDArray, NDArray], NDArray], name: str) -> Primitive:
    def reference(x: NDArray, w: NDArray) -> NDArray:
        return function(x, w)

    reference.__name__ = name
    reference.__doc__ = f"y = x {name} w, as truth values."
    return primitive(infer=truth, cost=each(cmp=1))(reference)


eq, ne = _comparison(np.equal, "eq"), _comparison(np.not_equal, "ne")
lt, le = _comparison(np.less, "lt"), _comparison(np.less_equal, "le")
gt, ge = _comparison(np.greater, "gt"), _comparison(np.greater_equal, "ge")
