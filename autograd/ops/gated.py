"""Activations x g(x), where a gate g rises from 0 to 1, and those of straight pieces.

For a gate the tape keeps x, as y does not determine it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..array import NDArray, Spec
from ..gaussian import BEND, DENSITY, STEEP, cumulative
from ..ledger import Cost
from ..primitive import Primitive, Value, primitive
from .activation import paired, sigmoid
from .compare import within
from .elementwise import add, div, exp, minimum, mul, sub, where
from .reduce import scale
from .rules import each, floating
from .shape import constant, zero


def _differentiated(
    activation: Primitive,
    slope: Callable[[NDArray], NDArray],
    curvature: Callable[[Value], Value],
    cost: Callable[..., Cost],
) -> Primitive:
    """Give an activation its first and second derivative; return the primitive dy slope(x)."""

    def gradient(dy: NDArray, x: NDArray) -> NDArray:
        with np.errstate(invalid="ignore"):  # an infinite x: not a number, as in torch
            return np.multiply(dy, slope(x))

    gradient.__name__ = f"{activation.name}_dx"
    gradient.__doc__ = f"Return dx: dy times the slope of {activation.name} at x."
    backward = primitive(infer=paired, cost=cost, outputs=("dx",))(gradient)

    @activation.vjp("x")
    def _(dy: Value, x: Value) -> Value:
        return backward(dy, x)

    @backward.vjp("dy")
    def _(ddx: Value, x: Value) -> Value:
        return backward(ddx, x)

    @backward.vjp("x")
    def _(ddx: Value, dy: Value, x: Value) -> Value:
        return mul(mul(ddx, dy), curvature(x))

    return backward


@primitive(infer=floating, cost=each(exp=1, mul=1))
def gelu(x: NDArray) -> NDArray:
    """Return x times the probability of a normal number below x (Hendrycks and Gimpel 2016)."""
    with np.errstate(invalid="ignore"):
        return x * cumulative(x)[0]


def _gelu_slope(x: NDArray) -> NDArray:
    below, bell = cumulative(x)
    return below + x * (DENSITY * bell)


def _gelu_curvature(x: Value) -> Value:
    square = mul(x, x)
    density = scale(exp(scale(square, factor=-0.5)), factor=DENSITY)
    return mul(density, sub(constant(x, 2.0), square))


gelu_dx = _differentiated(gelu, _gelu_slope, _gelu_curvature, each(exp=2, mul=3, add=1))


def _logistic(x: NDArray) -> NDArray:
    with np.errstate(over="ignore"):  # e^-x = inf gives the right 0
        return 1 / (1 + np.exp(-x))


@primitive(infer=floating, cost=each(exp=1, add=1, div=1))
def silu(x: NDArray) -> NDArray:
    """Return x / (1 + e^-x) (Elfwing et al. 2017)."""
    with np.errstate(invalid="ignore"):
        return x * _logistic(x)


def _silu_slope(x: NDArray) -> NDArray:
    gate = _logistic(x)
    return gate + x * (gate * (1 - gate))


def _bends(gate: Value) -> tuple[Value, Value]:
    """Return the first and the second derivative of a sigmoid whose value is given."""
    one = constant(gate, 1.0)
    first = mul(gate, sub(one, gate))
    return first, mul(first, sub(one, add(gate, gate)))


def _silu_curvature(x: Value) -> Value:
    first, second = _bends(sigmoid(x))
    return add(add(first, first), mul(x, second))


silu_dx = _differentiated(silu, _silu_slope, _silu_curvature, each(exp=1, div=1, mul=3, add=3))


@primitive(infer=floating, cost=each(exp=1, div=1, mul=5, add=2))
def gelu_tanh(x: NDArray) -> NDArray:
    """Return GELU with (1 + tanh u) / 2 for the probability, u = sqrt(2 / pi) (x + 0.044715 x^3)
    (Hendrycks and Gimpel 2016).

    It is computed as the sigmoid of 2 u, which keeps its digits where it is small."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x * _logistic(STEEP * (x + BEND * (x * x * x)))


def _gelu_tanh_slope(x: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        gate = _logistic(STEEP * (x + BEND * (x * x * x)))
        return gate + x * (gate * (1 - gate)) * (STEEP + (3 * BEND * STEEP) * (x * x))


def _gelu_tanh_curvature(x: Value) -> Value:
    square, one = mul(x, x), constant(x, 1.0)
    inner = scale(mul(x, add(one, scale(square, factor=BEND))), factor=STEEP)
    rise = scale(add(one, scale(square, factor=3 * BEND)), factor=STEEP)
    first, second = _bends(sigmoid(inner))
    straight = mul(first, rise)
    bent = add(mul(second, mul(rise, rise)), mul(first, scale(x, factor=6 * BEND * STEEP)))
    return add(add(straight, straight), mul(x, bent))


gelu_tanh_dx = _differentiated(
    gelu_tanh, _gelu_tanh_slope, _gelu_tanh_curvature, each(exp=1, div=1, mul=10, add=5)
)

CALM = 20.0  # x from which the gate rounds to 1


def _mish_gate(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return e^x and n = e^x (e^x + 2), the gate being n / (n + 2)."""
    grown = np.exp(x)
    return grown, grown * (grown + 2)


@primitive(infer=floating, cost=each(cmp=1, exp=1, div=1, mul=2, add=2))
def mish(x: NDArray) -> NDArray:
    """Return x tanh(log(1 + e^x)) (Misra 2019)."""
    _, n = _mish_gate(np.minimum(x, CALM))
    with np.errstate(invalid="ignore"):
        return x * (n / (n + 2))


def _mish_slope(x: NDArray) -> NDArray:
    x = np.minimum(x, CALM)
    grown, n = _mish_gate(x)
    share = 2 / (n + 2)
    return n / (n + 2) + x * (grown * (grown + 1) * (share * share))


def _mish_curvature(x: Value) -> Value:
    one, two = constant(x, 1.0), constant(x, 2.0)
    x = minimum(x, constant(x, CALM))
    grown, rate = exp(x), sigmoid(x)
    share = div(two, add(mul(grown, add(grown, two)), two))
    first = mul(mul(grown, add(grown, one)), mul(share, share))
    second = mul(first, sub(sub(one, rate), mul(mul(two, rate), sub(one, share))))
    return add(mul(two, first), mul(x, second))


mish_dx = _differentiated(
    mish, _mish_slope, _mish_curvature, each(cmp=1, exp=1, div=2, mul=6, add=4)
)


@primitive(infer=floating, cost=each(cmp=2, mul=2, add=1))
def hardswish(x: NDArray) -> NDArray:
    """Return x times (x + 3) / 6 limited to [0, 1] (Howard et al. 2019)."""
    with np.errstate(invalid="ignore"):
        return x * (np.clip(x + 3, 0, 6) * x.dtype.type(1 / 6))


def _hardswish_slope(x: NDArray) -> NDArray:
    inner = x * x.dtype.type(1 / 3) + x.dtype.type(0.5)
    return np.where(x <= -3, x.dtype.type(0), np.where(x >= 3, x.dtype.type(1), inner))


def _hardswish_curvature(x: Value) -> Value:
    return where(within(x, low=-3.0, high=3.0), constant(x, 1 / 3), constant(x, 0.0))


hardswish_dx = _differentiated(
    hardswish, _hardswish_slope, _hardswish_curvature, each(cmp=2, mul=2, add=1)
)


def _between(x: Spec, *, low: float, high: float) -> Spec:
    """Shape rule of hardtanh. ValueError for bounds in the wrong order."""
    if low > high:
        raise ValueError(f"hardtanh: expected min_val <= max_val, got {low} and {high}")
    return floating(x)


@primitive(infer=_between, cost=each(cmp=2))
def hardtanh(x: NDArray, *, low: float, high: float) -> NDArray:
    """Return x limited to [low, high], with slope 0 at the bounds (Collobert 2004)."""
    return np.clip(x, low, high)


@hardtanh.vjp("x")
def _(dy: Value, y: Value, low: float, high: float) -> Value:
    return hardtanh_dx(dy, y, low=low, high=high)


@primitive(infer=paired, cost=each(cmp=2), outputs=("dx",))
def hardtanh_dx(dy: NDArray, y: NDArray, *, low: float, high: float) -> NDArray:
    """Return dx: dy where y lies between the bounds or is not a number, as in torch, else 0."""
    return np.where((y <= y.dtype.type(low)) | (y >= y.dtype.type(high)), dy.dtype.type(0), dy)


@hardtanh_dx.vjp("dy")
def _(ddx: Value, y: Value, low: float, high: float) -> Value:
    return hardtanh_dx(ddx, y, low=low, high=high)


@hardtanh_dx.vjp("y")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return zero(specs[1])
