"""Local response normalisation across channels, axis 1 (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .elementwise import add, div, mul, pow, sub
from .reduce import scale
from .rules import floating
from .shape import full


def _windowed(x: Spec, *, before: int, after: int) -> Spec:
    """Shape rule of channel_window."""
    if len(x.shape) < 2:
        raise ValueError(f"local_response_norm: expected an input (N, C, ..), got shape {x.shape}")
    return floating(x)


@primitive(infer=_windowed, cost=lambda y, x, *, before, after: Cost(add=(before + after) * x.size))
def channel_window(x: NDArray, *, before: int, after: int) -> NDArray:
    """Return y[n, c] = the sum of x[n, j] for j from c - before to c + after, as far as they exist.

    The window slides along axis 1. Transposed, it is the same with `before` and `after` exchanged.
    """
    y = np.array(x, order="K")
    channels = x.shape[1]
    for step in [*range(-before, 0), *range(1, after + 1)]:
        size = channels - np.abs(step)
        if size > 0:
            y[:, max(-step, 0) :][:, :size] += x[:, max(step, 0) :][:, :size]
    return y


@channel_window.vjp("x")
def _(dy: Value, before: int, after: int) -> Value:
    return channel_window(dy, before=after, after=before)


def _neighbours(x: Spec, *, size: int, alpha: float, beta: float, k: float) -> tuple[Spec, Spec]:
    """Shape rule of local_response_norm. ValueError for a size below 1 or fewer than 3 axes."""
    if size < 1:
        raise ValueError(f"local_response_norm: expected a size of at least 1 channel, got {size}")
    if len(x.shape) < 3:
        raise ValueError(
            f"local_response_norm: expected an input (N, C, ..) of at least 3 axes, got {x.shape}"
        )
    return floating(x), x


def _window_cost(y: tuple[Spec, Spec], x: Spec, *, size: int, **attrs: float) -> Cost:
    """Cost rule of local_response_norm, see there."""
    return Cost(mul=3 * x.size, add=size * x.size, exp=x.size)


@primitive(infer=_neighbours, cost=_window_cost, outputs=("y", "s"))
def local_response_norm(
    x: NDArray, *, size: int, alpha: float, beta: float, k: float
) -> tuple[NDArray, NDArray]:
    """Return x s^-beta and s = k + alpha / size times the sum of x^2 over a window of channels.

    The window is c - size // 2 .. c + (size - 1) // 2, and alpha is torch's: in Krizhevsky et al.
    (2012) it is not divided by the size. s is saved for the derivative. Counted per element: a
    square, size - 1 additions, times alpha / size, plus k, a power, times x."""
    s = channel_window.reference(x * x, before=size // 2, after=(size - 1) // 2)
    # In place from here on: s has as many elements as the image and is saved anyway.
    s *= x.dtype.type(alpha / size)
    s += x.dtype.type(k)
    y = np.power(s, x.dtype.type(-beta), out=np.empty_like(x))
    y *= x
    return y, s


@local_response_norm.vjp("x")
def _(
    dy: Value | None, ds: Value | None, x: Value, s: Value, size: int, alpha: float, beta: float,
    k: float,
) -> Value:  # fmt: skip
    dx = None if dy is None else lrn_dx(dy, x, s, size=size, alpha=alpha, beta=beta)
    if ds is None:
        return dx
    wide = channel_window(ds, before=(size - 1) // 2, after=size // 2)
    more = scale(mul(x, wide), factor=2 * alpha / size)
    return more if dx is None else add(dx, more)


@primitive(
    infer=lambda dy, x, s, *, size, alpha, beta: x,
    cost=lambda dx, dy, x, s, *, size, **a: Cost(
        mul=5 * x.size, div=x.size, add=size * x.size, exp=x.size
    ),
    outputs=("dx",),
)
def lrn_dx(dy: NDArray, x: NDArray, s: NDArray, *, size: int, alpha: float, beta: float) -> NDArray:
    """Return dx = dy s^-beta - 2 alpha beta / size x W(dy x s^(-beta - 1)), W being the reversed
    window."""
    dx, slope = np.empty_like(x), np.empty_like(x)
    np.power(s, x.dtype.type(-beta), out=dx)
    np.multiply(dx, dy, out=dx)
    np.multiply(dx, x, out=slope)
    slope /= s
    wide = channel_window.reference(slope, before=(size - 1) // 2, after=size // 2)
    wide *= x
    wide *= x.dtype.type(2 * alpha * beta / size)
    np.subtract(dx, wide, out=dx)
    return dx


def _power(s: Value, exponent: float) -> Value:
    """Return s to a constant exponent."""
    return pow(s, full(shape=(), dtype=s.dtype, value=exponent))


@lrn_dx.vjp("dy", "x", "s")
def _(
    ddx: Value, dy: Value, x: Value, s: Value, size: int, alpha: float, beta: float
) -> tuple[Value, Value, Value]:
    low, high = size // 2, (size - 1) // 2
    slope, power = _power(s, -beta - 1), _power(s, -beta)
    scaled = scale(ddx, factor=2 * alpha * beta / size)
    lower = channel_window(mul(scaled, x), before=low, after=high)
    upper = channel_window(mul(mul(dy, x), slope), before=high, after=low)
    ddy = sub(mul(ddx, power), mul(mul(lower, x), slope))
    dx = scale(add(mul(scaled, upper), mul(mul(lower, dy), slope)), factor=-1.0)
    cross = scale(div(mul(mul(lower, dy), mul(x, slope)), s), factor=beta + 1)
    ds = sub(cross, scale(mul(mul(ddx, dy), slope), factor=beta))
    return ddy, dx, ds
