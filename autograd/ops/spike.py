"""Spikes with a surrogate gradient: a step forward, and on the way back the slope of a smooth
function in its place."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..primitive import Value, primitive
from .activation import paired
from .elementwise import abs, add, div, mul, sign
from .reduce import scale
from .rules import each, floating
from .shape import full


@primitive(infer=lambda x, *, slope: floating(x), cost=each(cmp=1))
def spike(x: NDArray, *, slope: float) -> NDArray:
    """Return 1 where x > 0, else 0.

    Its gradient is that of x / (1 + slope |x|), the fast sigmoid (Zenke and Ganguli 2018)."""
    return np.greater(x, 0).astype(x.dtype)


@spike.vjp("x")
def _(dy: Value, x: Value, slope: float) -> Value:
    return spike_dx(dy, x, slope=slope)


@primitive(infer=paired, cost=each(cmp=1, mul=2, add=1, div=1), outputs=("dx",))
def spike_dx(dy: NDArray, x: NDArray, *, slope: float) -> NDArray:
    """Return dx = dy / (1 + slope |x|)^2."""
    y = np.abs(x)
    y *= x.dtype.type(slope)
    y += 1
    y *= y
    return np.divide(dy, y, out=y)


@spike_dx.vjp("dy")
def _(ddx: Value, x: Value, slope: float) -> Value:
    return spike_dx(ddx, x, slope=slope)


@spike_dx.vjp("x")
def _(ddx: Value, dy: Value, x: Value, slope: float, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=x.dtype, value=1.0)
    steep = div(sign(x), add(one, scale(abs(x), factor=slope)))
    return scale(mul(spike_dx(mul(ddx, dy), x, slope=slope), steep), factor=-2.0 * slope)
