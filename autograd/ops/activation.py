"""Activations: functions of one array, each with its slope in terms of what is cheapest to keep."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .compare import gt
from .elementwise import add, exp, mul, sub, where
from .reduce import kept, scale
from .reduce import sum as total
from .rules import each, floating
from .shape import full, reshape, zero


def paired(dy: Spec, y: Spec, **attrs: object) -> Spec:
    """Shape rule of a slope times an incoming gradient: as the gradient. ValueError where the two
    differ."""
    if dy.shape != y.shape:
        raise ValueError(f"gradient of shape {dy.shape} for a result of shape {y.shape}")
    return dy


@primitive(infer=floating, cost=each(cmp=1))
def relu(x: NDArray) -> NDArray:
    """y = max(x, 0), with slope 0 at 0."""
    return np.maximum(x, 0)


@relu.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return relu_dx(dy, y)


@primitive(infer=paired, cost=each(cmp=1), outputs=("dx",))
def relu_dx(dy: NDArray, y: NDArray) -> NDArray:
    """dx = dy where y > 0, else 0."""
    dx = np.empty_like(dy)
    # Bits times 0 or 1: faster than a choice, and unlike floats an infinite dy becomes no nan.
    bits = dx.view(f"i{dy.itemsize}")
    np.greater(y, 0, out=bits)
    bits *= dy.view(bits.dtype)
    return dx


@relu_dx.vjp("dy")
def _(ddx: Value, y: Value) -> Value:
    return relu_dx(ddx, y)


@relu_dx.vjp("y")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])


def _rising(x: Spec, *, slope: float) -> Spec:
    if slope < 0:
        raise ValueError(f"leaky_relu: slope {slope} < 0 loses the sign of x; see where()")
    return floating(x)


@primitive(infer=_rising, cost=each(cmp=1, mul=1))
def leaky_relu(x: NDArray, *, slope: float) -> NDArray:
    """y = x where x > 0, else slope x; slope >= 0, so that y tells the sign of x."""
    y = np.empty_like(x)
    np.multiply(x, x.dtype.type(slope), out=y)
    (np.maximum if slope <= 1 else np.minimum)(x, y, out=y)
    return y


@leaky_relu.vjp("x")
def _(dy: Value, y: Value, slope: float) -> Value:
    return leaky_relu_dx(dy, y, slope=slope)


@primitive(infer=paired, cost=each(cmp=1, mul=1), outputs=("dx",))
def leaky_relu_dx(dy: NDArray, y: NDArray, *, slope: float) -> NDArray:
    """dx = dy where y > 0, else slope dy."""
    if slope <= 1:
        dx = np.greater(y, 0, out=np.empty_like(dy))
        np.maximum(dx, dy.dtype.type(slope), out=dx)
    else:
        dx = np.less_equal(y, 0, out=np.empty_like(dy))
        dx *= dy.dtype.type(slope)
        np.maximum(dx, 1, out=dx)
    dx *= dy
    return dx


@leaky_relu_dx.vjp("dy")
def _(ddx: Value, y: Value, slope: float) -> Value:
    return leaky_relu_dx(ddx, y, slope=slope)


@leaky_relu_dx.vjp("y")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])


def _bounded(x: Spec, *, alpha: float) -> Spec:
    if alpha < 0:
        raise ValueError(f"elu: alpha {alpha} < 0 loses the sign of x; see where()")
    return floating(x)


@primitive(infer=_bounded, cost=each(cmp=1, exp=1, add=1, mul=1))
def elu(x: NDArray, *, alpha: float) -> NDArray:
    """y = x where x > 0, else alpha (e^x - 1), alpha >= 0 (Clevert et al. 2016)."""
    y = np.minimum(x, 0, out=np.empty_like(x))
    np.expm1(y, out=y)
    y *= x.dtype.type(alpha)
    y += np.maximum(x, 0)
    return y


@elu.vjp("x")
def _(dy: Value, y: Value, alpha: float) -> Value:
    return elu_dx(dy, y, alpha=alpha)


@primitive(infer=paired, cost=each(cmp=1, add=1, mul=1), outputs=("dx",))
def elu_dx(dy: NDArray, y: NDArray, *, alpha: float) -> NDArray:
    """dx = dy where y > 0, else dy (y + alpha)."""
    dx = np.greater(y, 0, out=np.empty_like(y))
    dx *= y.dtype.type(1 - alpha)
    dx += np.minimum(y, 0)
    dx += y.dtype.type(alpha)
    dx *= dy
    return dx


@elu_dx.vjp("dy")
def _(ddx: Value, y: Value, alpha: float) -> Value:
    return elu_dx(ddx, y, alpha=alpha)


@elu_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value) -> Value:
    zero = full(shape=(), dtype=y.dtype, value=0.0)
    return where(gt(y, zero), zero, mul(ddx, dy))


@primitive(infer=floating, cost=each(exp=1, add=1, div=1))
def sigmoid(x: NDArray) -> NDArray:
    """y = 1 / (1 + e^-x)."""
    y = np.negative(x, out=np.empty_like(x))
    with np.errstate(over="ignore"):  # e^-x = inf gives the right 0
        np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


@sigmoid.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return sigmoid_dx(dy, y)


@primitive(infer=paired, cost=each(mul=2, add=1), outputs=("dx",))
def sigmoid_dx(dy: NDArray, y: NDArray) -> NDArray:
    """dx = dy y (1 - y)."""
    dx = np.subtract(1, y, out=np.empty_like(y))
    dx *= y
    dx *= dy
    return dx


@sigmoid_dx.vjp("dy")
def _(ddx: Value, y: Value) -> Value:
    return sigmoid_dx(ddx, y)


@sigmoid_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value) -> Value:
    one = full(shape=(), dtype=y.dtype, value=1.0)
    return mul(mul(ddx, dy), sub(one, add(y, y)))


@primitive(infer=floating, cost=each(exp=1))
def tanh(x: NDArray) -> NDArray:
    """y = tanh x."""
    return np.tanh(x)


@tanh.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return tanh_dx(dy, y)


@primitive(infer=paired, cost=each(mul=2, add=1), outputs=("dx",))
def tanh_dx(dy: NDArray, y: NDArray) -> NDArray:
    """dx = dy (1 - y^2)."""
    dx = np.multiply(y, y, out=np.empty_like(y))
    np.subtract(1, dx, out=dx)
    dx *= dy
    return dx


@tanh_dx.vjp("dy")
def _(ddx: Value, y: Value) -> Value:
    return tanh_dx(ddx, y)


@tanh_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value) -> Value:
    return scale(mul(mul(ddx, dy), y), factor=-2.0)


@primitive(infer=floating, cost=each(cmp=1, exp=2, add=1))
def softplus(x: NDArray) -> NDArray:
    """y = log(1 + e^x), as max(x, 0) + log(1 + e^-|x|) to stay finite."""
    y = np.abs(x, out=np.empty_like(x))
    np.exp(np.negative(y, out=y), out=y)
    np.log1p(y, out=y)
    y += np.maximum(x, 0)
    return y


@softplus.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, sigmoid(x))


def _along(x: Spec, *, axis: int) -> Spec:
    if x.shape[axis] == 0:
        raise ValueError(f"softmax over axis {axis} of shape {x.shape}, which is empty")
    return floating(x)


@primitive(infer=_along, cost=each(cmp=1, add=2, exp=1, div=1))
def softmax(x: NDArray, *, axis: int) -> NDArray:
    """y = e^x / (the sum of e^x along an axis), shifted by the largest x so as to stay finite."""
    y = np.empty_like(x)
    with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
        np.subtract(x, x.max(axis, keepdims=True), out=y)
    np.exp(y, out=y)
    np.divide(y, y.sum(axis, keepdims=True), out=y)
    return y


@softmax.vjp("x")
def _(dy: Value, y: Value, axis: int) -> Value:
    return softmax_dx(dy, y, axis=axis)


@primitive(infer=paired, cost=each(mul=2, add=2), outputs=("dx",))
def softmax_dx(dy: NDArray, y: NDArray, *, axis: int) -> NDArray:
    """dx = y (dy - the sum of dy y along the axis)."""
    dx = np.multiply(dy, y, out=np.empty_like(y))
    np.subtract(dy, dx.sum(axis, keepdims=True), out=dx)
    return np.multiply(dx, y, out=dx)


def along(x: Value, axis: int) -> Value:
    """Return the sum of x along an axis, which stays as an axis of extent 1."""
    return reshape(total(x, axes=(axis,)), shape=kept(x.spec, (axis,)))


@softmax_dx.vjp("dy")
def _(ddx: Value, y: Value, axis: int) -> Value:
    return softmax_dx(ddx, y, axis=axis)


@softmax_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value, axis: int) -> Value:
    first = mul(ddx, sub(dy, along(mul(dy, y), axis)))
    return sub(first, mul(dy, along(mul(ddx, y), axis)))


def _log_cost(y: Spec, x: Spec, *, axis: int) -> Cost:
    return Cost(cmp=x.size, add=3 * x.size, exp=x.size + x.size // x.shape[axis])


@primitive(infer=_along, cost=_log_cost)
def log_softmax(x: NDArray, *, axis: int) -> NDArray:
    """y = x - log(the sum of e^x along an axis), shifted by the largest x so as to stay finite."""
    y = np.empty_like(x)
    with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
        np.subtract(x, x.max(axis, keepdims=True), out=y)
    np.subtract(y, np.log(np.exp(y).sum(axis, keepdims=True)), out=y)
    return y


@log_softmax.vjp("x")
def _(dy: Value, y: Value, axis: int) -> Value:
    return log_softmax_dx(dy, y, axis=axis)


@primitive(infer=paired, cost=each(exp=1, mul=1, add=2), outputs=("dx",))
def log_softmax_dx(dy: NDArray, y: NDArray, *, axis: int) -> NDArray:
    """dx = dy - e^y (the sum of dy along the axis)."""
    dx = np.exp(y, out=np.empty_like(y))
    dx *= dy.sum(axis, keepdims=True)
    return np.subtract(dy, dx, out=dx)


@log_softmax_dx.vjp("dy")
def _(ddx: Value, y: Value, axis: int) -> Value:
    return sub(ddx, along(mul(ddx, exp(y)), axis))


@log_softmax_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value, axis: int) -> Value:
    return scale(mul(mul(ddx, exp(y)), along(dy, axis)), factor=-1.0)
