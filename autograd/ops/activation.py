"""Activations, each with a derivative in terms of what is cheapest to save.

Where y alone determines the slope (ReLU, leaky ReLU, sigmoid, tanh, softmax) the tape saves y,
which the next layer saves anyway; ELU and softplus save x, since y would lose digits. Slopes at a
kink are torch's."""

from __future__ import annotations

from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from ..summation import sum_over
from .compare import ge
from .elementwise import add, exp, mul, sub, where
from .reduce import kept_shape, reduced, scale, spread
from .reduce import sum as total
from .rules import each, floating, numeric
from .shape import full, reshape, zero


def paired(dy: Spec, y: Spec, **attrs: object) -> Spec:
    """Shape rule of a slope times an incoming gradient: the gradient's. ValueError where it has
    another shape than the result."""
    if dy.shape != y.shape:
        raise ValueError(f"expected dy of shape {y.shape}, got {dy.shape}")
    return dy


@primitive(infer=numeric, cost=each(cmp=1))
def relu(x: NDArray) -> NDArray:
    """Return max(x, 0), with slope 0 at 0 (Nair and Hinton 2010)."""
    return np.maximum(x, 0)


@relu.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return relu_dx(dy, y)


@primitive(infer=paired, cost=each(cmp=1), outputs=("dx",))
def relu_dx(dy: NDArray, y: NDArray) -> NDArray:
    """Return dx: dy where y > 0 or y is not a number, as in torch, else 0."""
    dx = np.empty_like(dy)
    # Bits masked by zeros or ones: faster than a choice, and an infinite dy becomes no nan.
    bits = dx.view(f"i{dy.itemsize}")
    np.less_equal(y, 0, out=bits)
    bits -= 1
    bits &= dy.view(bits.dtype)
    return dx


@relu_dx.vjp("dy")
def _(ddx: Value, y: Value) -> Value:
    return relu_dx(ddx, y)


@relu_dx.vjp("y")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])


def _rising(x: Spec, *, slope: float) -> Spec:
    """Shape rule of leaky_relu. ValueError for a negative slope."""
    if slope < 0:
        # The sign of x could not be told from y.
        raise ValueError(f"leaky_relu: expected a slope of at least 0, got {slope}; use where()")
    return floating(x)


@primitive(infer=_rising, cost=each(cmp=1, mul=1))
def leaky_relu(x: NDArray, *, slope: float) -> NDArray:
    """Return x where x > 0, else slope x (Maas et al. 2013).

    `slope` is at least 0, so that the sign of y is that of x and y suffices for the derivative."""
    y = np.minimum(x, 0, out=np.empty_like(x))
    # Only the negative part is multiplied, the positive part is added afterwards.
    y *= x.dtype.type(slope)  # an infinite x is not among them: a slope of 0 leaves it as it is
    y += np.maximum(x, 0)
    return y


@leaky_relu.vjp("x")
def _(dy: Value, y: Value, slope: float) -> Value:
    return leaky_relu_dx(dy, y, slope=slope)


@primitive(infer=paired, cost=each(cmp=1, mul=1), outputs=("dx",))
def leaky_relu_dx(dy: NDArray, y: NDArray, *, slope: float) -> NDArray:
    """Return dx: dy where y > 0, else slope dy."""
    dx = np.greater(y, 0, out=np.empty_like(dy))
    if slope <= 1:
        np.maximum(dx, dy.dtype.type(slope), out=dx)
    else:
        np.subtract(1, dx, out=dx)
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


@primitive(infer=floating, cost=each(cmp=1, exp=1, add=1, mul=1))
def elu(x: NDArray, *, alpha: float) -> NDArray:
    """Return x where x > 0, else alpha (e^x - 1) (Clevert et al. 2016).

    Computed with expm1, which keeps all digits near 0."""
    y = np.minimum(x, 0, out=np.empty_like(x))
    np.expm1(y, out=y)
    y *= x.dtype.type(alpha)
    y += np.maximum(x, 0)
    return y


@elu.vjp("x")
def _(dy: Value, x: Value, alpha: float) -> Value:
    return elu_dx(dy, x, alpha=alpha)


@primitive(infer=paired, cost=each(cmp=1, exp=1, mul=2), outputs=("dx",))
def elu_dx(dy: NDArray, x: NDArray, *, alpha: float) -> NDArray:
    """Return dx: dy where x > 0, else dy alpha e^x.

    x is saved, not y: y + alpha, which equals alpha e^x, loses all digits where y is near -alpha.
    """
    dx = np.minimum(x, 0, out=np.empty_like(x))
    np.exp(dx, out=dx)
    dx *= x.dtype.type(alpha)
    np.copyto(dx, 1, where=x > 0)
    dx *= dy
    return dx


@elu_dx.vjp("dy")
def _(ddx: Value, x: Value, alpha: float) -> Value:
    return elu_dx(ddx, x, alpha=alpha)


@elu_dx.vjp("x")
def _(ddx: Value, dy: Value, x: Value, alpha: float) -> Value:
    zero = full(shape=(), dtype=x.dtype, value=0.0)
    return where(ge(x, zero), zero, mul(ddx, elu_dx(dy, x, alpha=alpha)))


@primitive(infer=floating, cost=each(exp=1, add=1, div=1))
def sigmoid(x: NDArray) -> NDArray:
    """Return 1 / (1 + e^-x)."""
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
    """Return dx = dy y (1 - y).

    It is exact to the rounding of y, so 0 where y rounds to 1, as in torch."""
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
    """Return the hyperbolic tangent of x."""
    return np.tanh(x)


@tanh.vjp("x")
def _(dy: Value, y: Value) -> Value:
    return tanh_dx(dy, y)


@primitive(infer=paired, cost=each(mul=2, add=1), outputs=("dx",))
def tanh_dx(dy: NDArray, y: NDArray) -> NDArray:
    """Return dx = dy (1 - y^2).

    It is exact to the rounding of y, so 0 where |y| rounds to 1, as in torch."""
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
    """Return log(1 + e^x), computed as max(x, 0) + log1p(e^-|x|), which stays finite."""
    y = np.abs(x, out=np.empty_like(x))
    np.exp(np.negative(y, out=y), out=y)
    np.log1p(y, out=y)
    y += np.maximum(x, 0)
    return y


@softplus.vjp("x")
def _(dy: Value, x: Value) -> Value:
    return mul(dy, sigmoid(x))


def _sums(x: NDArray, axis: int) -> NDArray:
    """Return sums along an axis, which stays as an axis of extent 1."""
    return np.expand_dims(sum_over(x, (axis % x.ndim,)), axis)


def sum_less_one(powers: NDArray, axis: int) -> NDArray:
    """Return the sum of `powers` along an axis, less 1.

    The largest power is e^0 = 1. Leaving it out keeps the digits of the small ones, which log1p
    then preserves: the logarithm of a sum near 1 would lose them."""
    # All powers of exactly 1 are counted, all others summed; then one of the ones is left out.
    small = np.less(powers, 1, out=np.empty_like(powers))
    ones = powers.shape[axis] - _sums(small, axis)
    small *= powers
    return np.asarray(_sums(small, axis) + (ones - 1))


@primitive(
    infer=lambda x, *, axes: floating(reduced(x, axes=axes)),
    cost=lambda y, x, **a: Cost(cmp=x.size, add=2 * x.size, exp=x.size + y.size),
)
def logsumexp(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return log(the sum of e^x over axes), x being shifted by its largest to stay finite."""
    last = range(x.ndim - len(axes), x.ndim)
    moved = np.moveaxis(x, axes, last)
    flat = moved.reshape(*moved.shape[: last.start], prod(x.shape[a] for a in axes))
    top = flat.max(-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isneginf(top), x.dtype.type(0), top)
    with np.errstate(invalid="ignore", divide="ignore"):  # of infinities: decided below
        y = np.log1p(sum_less_one(np.exp(flat - shift), -1)) + shift
    return np.where(np.isposinf(top), top, y)[..., 0]


@logsumexp.vjp("x")
def _(dy: Value, x: Value, y: Value, specs: tuple[Spec, ...], axes: tuple[int, ...]) -> Value:
    return mul(spread(dy, specs[0], axes), exp(sub(x, spread(y, specs[0], axes))))


@primitive(infer=lambda x, *, axis: floating(x), cost=each(cmp=1, add=2, exp=1, div=1))
def softmax(x: NDArray, *, axis: int) -> NDArray:
    """Return e^x / (the sum of e^x along an axis).

    x is shifted by its largest value first, which changes nothing but keeps e^x finite."""
    y = np.empty_like(x)
    with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
        np.subtract(x, x.max(axis, keepdims=True, initial=-np.inf), out=y)
    np.exp(y, out=y)
    np.divide(y, _sums(y, axis), out=y)
    return y


@softmax.vjp("x")
def _(dy: Value, y: Value, axis: int) -> Value:
    return softmax_dx(dy, y, axis=axis)


@primitive(infer=paired, cost=each(mul=2, add=2), outputs=("dx",))
def softmax_dx(dy: NDArray, y: NDArray, *, axis: int) -> NDArray:
    """Return dx = y (dy - the sum of dy y along the axis).

    The subtraction is repeated once on its own result: where one y is nearly 1, the first pass
    leaves a rounding error as large as dx itself, the second removes it."""
    off = dy
    for _ in range(2):
        off = np.subtract(off, _sums(off * y, axis), out=np.empty_like(y))
    return np.multiply(off, y, out=off)


def along(x: Value, axis: int) -> Value:
    """Return the sum of x along an axis, which stays as an axis of extent 1."""
    return reshape(total(x, axes=(axis,)), shape=kept_shape(x.spec, (axis,)))


@softmax_dx.vjp("dy")
def _(ddx: Value, y: Value, axis: int) -> Value:
    return softmax_dx(ddx, y, axis=axis)


@softmax_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value, axis: int) -> Value:
    first = mul(ddx, sub(dy, along(mul(dy, y), axis)))
    return sub(first, mul(dy, along(mul(ddx, y), axis)))


def _log_cost(y: Spec, x: Spec, *, axis: int) -> Cost:
    """Cost rule of log_softmax: as softmax, with a logarithm for each sum instead of divisions."""
    return Cost(cmp=x.size, add=3 * x.size, exp=x.size + x.size // max(x.shape[axis], 1))


@primitive(infer=lambda x, *, axis: floating(x), cost=_log_cost)
def log_softmax(x: NDArray, *, axis: int) -> NDArray:
    """Return x - log(the sum of e^x along an axis), shifted by the largest x to stay finite."""
    y = np.empty_like(x)
    # All of -inf, or one inf: not a number. The logarithm of a sum of nothing is not used.
    with np.errstate(invalid="ignore", divide="ignore"):
        np.subtract(x, x.max(axis, keepdims=True, initial=-np.inf), out=y)
        return np.subtract(y, np.log1p(sum_less_one(np.exp(y), axis)), out=y)


@log_softmax.vjp("x")
def _(dy: Value, y: Value, axis: int) -> Value:
    return log_softmax_dx(dy, y, axis=axis)


@primitive(infer=paired, cost=each(exp=1, mul=1, add=2), outputs=("dx",))
def log_softmax_dx(dy: NDArray, y: NDArray, *, axis: int) -> NDArray:
    """Return dx = dy - e^y (the sum of dy along the axis).

    Computed as -(dy (e^y - 1) + e^y (the sum of the other dy)), with expm1: no digits cancel where
    e^y is nearly 1."""
    others = np.subtract(_sums(dy, axis), dy, out=np.empty_like(y))
    others *= np.exp(y)
    dx = np.expm1(y, out=np.empty_like(y))
    dx *= dy
    dx += others
    return np.negative(dx, out=dx)


@log_softmax_dx.vjp("dy")
def _(ddx: Value, y: Value, axis: int) -> Value:
    return sub(ddx, along(mul(ddx, exp(y)), axis))


@log_softmax_dx.vjp("y")
def _(ddx: Value, dy: Value, y: Value, axis: int) -> Value:
    return scale(mul(mul(ddx, exp(y)), along(dy, axis)), factor=-1.0)
