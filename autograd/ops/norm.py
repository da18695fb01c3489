"""Normalisation. Per channel, axis 1 is the channel and n = elements / channels are its values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .elementwise import add, div, fit, mul, neg, sqrt, sub
from .reduce import broadcast_to, scale
from .reduce import sum as total
from .shape import full, reshape

BLOCK = 1 << 15  # elements worked on at a time, so that temporaries stay in the cache
WIDE = 512  # elements in a row of a block: short rows would cost NumPy's loop overhead


@cache
def _width(rows: int, channels: int) -> int:
    """Return how many rows of `channels` numbers are laid side by side."""
    most = max(1, WIDE // max(channels, 1))
    return max(k for k in range(1, most + 1) if rows % k == 0)


def _rows(x: NDArray) -> NDArray:
    """Return x as rows of whole repetitions of its channels; a view where x is channels-last."""
    channels = x.shape[1]
    count = x.size // channels if channels else 0
    wide = _width(count, channels) if count else 1
    return np.moveaxis(x, 1, -1).reshape(count // wide, wide * channels)


def _unrows(rows: NDArray, x: NDArray) -> NDArray:
    """Return rows in the shape and memory layout of x."""
    moved = np.moveaxis(x, 1, -1)
    y = np.moveaxis(rows.reshape(moved.shape), -1, 1)
    if moved.flags.c_contiguous:
        return y
    kept = np.empty_like(x)
    np.copyto(kept, y)
    return kept


def _blocks(rows: NDArray) -> Iterator[tuple[slice, NDArray]]:
    """Cut rows into blocks; yield the place of each and room for as many numbers."""
    step = max(1, BLOCK // max(rows.shape[1], 1))
    room = np.empty((min(step, rows.shape[0]), rows.shape[1]), rows.dtype)
    for i in range(0, rows.shape[0], step):
        yield slice(i, i + step), room[: rows.shape[0] - i]


def _tiled(v: NDArray, rows: NDArray) -> NDArray:
    """Return a number per channel as a row."""
    return np.tile(v.astype(rows.dtype), rows.shape[1] // v.size if v.size else 1)


def _folded(row: NDArray, channels: int) -> NDArray:
    """Return the sum of a row's entries for each channel."""
    return np.asarray(row.reshape(-1, channels).sum(0))


def _column_sums(block: NDArray) -> NDArray:
    return np.ones(block.shape[0], block.dtype) @ block


def moments(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return mean and (biased) variance of each channel, in float64: sums of deviations from the
    first block's mean, added up block by block, so that neither a mean far from zero nor many
    elements cost accuracy."""
    rows, channels = _rows(x), x.shape[1]
    count = x.size // channels
    first = rows[next(_blocks(rows))[0]]
    guess = _folded(first.mean(0, dtype=np.float64), channels) / (rows.shape[1] // channels)
    shift = _tiled(guess, rows)
    sums = np.zeros((2, rows.shape[1]))
    for at, off in _blocks(rows):
        np.subtract(rows[at], shift, out=off)
        sums[0] += _column_sums(off)
        sums[1] += np.einsum("ij,ij->j", off, off)
    off_mean, square = (_folded(s, channels) / count for s in sums)
    mean = shift[:channels].astype(np.float64) + off_mean
    return mean, np.maximum(square - off_mean * off_mean, 0)


def _normalised(
    x: NDArray, w: NDArray, b: NDArray, mean: NDArray, var: NDArray, eps: float
) -> NDArray:
    rows = _rows(x)
    y = np.empty(rows.shape, x.dtype)
    slope = _tiled(w / np.sqrt(var.astype(np.float64) + eps), rows)
    middle, bias = _tiled(mean, rows), _tiled(b, rows)
    for at, _ in _blocks(rows):
        np.subtract(rows[at], middle, out=y[at])
        y[at] *= slope
        y[at] += bias
    return _unrows(y, x)


def _channels(x: Spec, name: str, **given: Spec) -> Spec:
    """Check x and its per-channel arguments; return the Spec of a number per channel."""
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: expected floating-point numbers, got {x.dtype}")
    if len(x.shape) < 2:
        raise ValueError(f"{name}: input {x.shape} has no channel axis; expected (N, C, ..)")
    for what, spec in given.items():
        if spec.shape != x.shape[1:2]:
            raise ValueError(
                f"{name}: {what} {spec.shape} does not fit input {x.shape}: expected "
                f"({x.shape[1]},)"
            )
    return Spec(x.shape[1:2], x.dtype)


def _batch(x: Spec, w: Spec, b: Spec, *, eps: float) -> tuple[Spec, ...]:
    each = _channels(x, "batch_norm", weight=w, bias=b)
    if x.size < 2 * x.shape[1] or not x.shape[1]:
        raise ValueError(f"batch_norm: more than one value per channel needed, input is {x.shape}")
    return x, each, each


def _batch_cost(y: tuple[Spec, ...], x: Spec, *specs: Spec, eps: float) -> Cost:
    c = x.shape[1]
    return Cost(add=5 * x.size + c, mul=2 * x.size + 3 * c, div=c, exp=c)


@primitive(infer=_batch, cost=_batch_cost, outputs=("y", "mean", "var"))
def batch_norm(
    x: NDArray, w: NDArray, b: NDArray, *, eps: float
) -> tuple[NDArray, NDArray, NDArray]:
    """y = w (x - mean) / sqrt(var + eps) + b over a batch, with its mean and biased variance per
    channel (Ioffe & Szegedy 2015). Counted an element: a sum, a deviation, its square and their
    sum; a deviation, times a slope, plus b."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean, var = moments(x)
        y = _normalised(x, w, b, mean, var, eps)
    return y, mean.astype(x.dtype), var.astype(x.dtype)


@batch_norm.vjp("x", "w", "b")
def _(
    dy: Value | None, dmean: Value | None, dvar: Value | None, x: Value, w: Value, mean: Value,
    var: Value, specs: tuple[Spec, ...], needs: tuple[bool, ...], eps: float,
) -> tuple[Value | None, ...]:  # fmt: skip
    dx = dw = db = None
    if dy is not None:
        dw, db = batch_norm_sums(dy, x, mean, var, eps=eps)
        dx = batch_norm_dx(dy, x, w, mean, var, dw, db, eps=eps) if needs[0] else None
        dw, db = fit(dw, specs[1]), fit(db, specs[2])
    if needs[0] and (dmean is not None or dvar is not None):
        more = _statistics_dx(dmean, dvar, x, mean)
        dx = more if dx is None else add(dx, more)
    return dx, dw, db


def across(v: Value, x: Value) -> Value:
    """Return a number per channel in a shape that broadcasts against x."""
    return reshape(v, shape=(1, v.shape[0], *(1 for _ in x.shape[2:])))


def _statistics_dx(dmean: Value | None, dvar: Value | None, x: Value, mean: Value) -> Value:
    """Return the gradient that mean and variance send to x: (dmean + 2 dvar (x - mean)) / n."""
    share = x.shape[1] / prod(x.shape)
    parts = []
    if dmean is not None:
        parts.append(broadcast_to(across(scale(dmean, factor=share), x), shape=x.shape))
    if dvar is not None:
        parts.append(mul(sub(x, across(mean, x)), across(scale(dvar, factor=2 * share), x)))
    return parts[0] if len(parts) == 1 else add(*parts)


def _sums(dy: Spec, x: Spec, mean: Spec, var: Spec, *, eps: float) -> tuple[Spec, Spec]:
    each = _channels(x, "batch_norm", mean=mean, var=var)
    return each, each


def _sums_cost(y: tuple[Spec, ...], dy: Spec, x: Spec, *specs: Spec, eps: float) -> Cost:
    c = x.shape[1]
    return Cost(add=3 * x.size + c, mul=x.size, div=c, exp=c)


@primitive(infer=_sums, cost=_sums_cost, outputs=("dw", "db"), phase="backward_weights")
def batch_norm_sums(
    dy: NDArray, x: NDArray, mean: NDArray, var: NDArray, *, eps: float
) -> tuple[NDArray, NDArray]:
    """dw = the sum of dy (x - mean) / sqrt(var + eps) per channel, db = the sum of dy. The gradient
    of x needs them even where w and b have none of their own."""
    rows, dys, channels = _rows(x), _rows(dy), x.shape[1]
    middle = _tiled(mean, rows)
    sums = np.zeros((2, rows.shape[1]))
    for at, off in _blocks(rows):
        np.subtract(rows[at], middle, out=off)
        sums[0] += np.einsum("ij,ij->j", off, dys[at])
        sums[1] += _column_sums(dys[at])
    dw, db = (_folded(s, channels) for s in sums)
    return (dw / np.sqrt(var.astype(np.float64) + eps)).astype(x.dtype), db.astype(x.dtype)


def _rate(var: Value, eps: float) -> Value:
    """Return 1 / sqrt(var + eps)."""
    small = full(shape=(), dtype=var.dtype, value=eps)
    one = full(shape=(), dtype=var.dtype, value=1.0)
    return div(one, sqrt(add(var, small)))


@batch_norm_sums.vjp("dy", "x", "mean", "var")
def _(
    ddw: Value | None, ddb: Value | None, dy: Value, x: Value, mean: Value, var: Value,
    specs: tuple[Spec, ...], eps: float,
) -> tuple[Value | None, ...]:  # fmt: skip
    even = None if ddb is None else broadcast_to(across(ddb, x), shape=x.shape)
    if ddw is None:
        return even, None, None, None
    slope = mul(ddw, _rate(var, eps))
    ddy = mul(sub(x, across(mean, x)), across(slope, x))
    dw, db = batch_norm_sums(dy, x, mean, var, eps=eps)
    spread = add(var, full(shape=(), dtype=var.dtype, value=eps))
    dvar = scale(div(mul(ddw, dw), spread), factor=-0.5)
    return (
        ddy if even is None else add(ddy, even),
        mul(dy, across(slope, x)),
        neg(mul(slope, db)),
        dvar,
    )


def _dx_cost(dx: Spec, dy: Spec, x: Spec, *specs: Spec, eps: float) -> Cost:
    c = x.shape[1]
    return Cost(add=3 * x.size + c, mul=2 * x.size + 4 * c, div=c, exp=c)


@primitive(infer=lambda dy, x, *s, eps: x, cost=_dx_cost, outputs=("dx",))
def batch_norm_dx(
    dy: NDArray, x: NDArray, w: NDArray, mean: NDArray, var: NDArray, dw: NDArray, db: NDArray,
    *, eps: float,
) -> NDArray:  # fmt: skip
    """dx = w r (dy - db / n - (x - mean) r dw / n) with r = 1 / sqrt(var + eps)."""
    rows, dys, count = _rows(x), _rows(dy), x.size // x.shape[1]
    rate = 1 / np.sqrt(var.astype(np.float64) + eps)
    slope, middle = _tiled(w * rate, rows), _tiled(mean, rows)
    tilt, level = _tiled(w * rate**2 * dw / count, rows), _tiled(w * rate * db / count, rows)
    dx = np.empty(rows.shape, x.dtype)
    for at, off in _blocks(rows):
        np.subtract(rows[at], middle, out=off)
        off *= tilt
        off += level
        np.multiply(dys[at], slope, out=dx[at])
        dx[at] -= off
    return _unrows(dx, x)


@batch_norm_dx.vjp("dy", "x", "w", "mean", "var", "dw", "db")
def _(
    ddx: Value, dy: Value, x: Value, w: Value, mean: Value, var: Value, dw: Value, db: Value,
    eps: float,
) -> tuple[Value, ...]:  # fmt: skip
    share = x.shape[1] / prod(x.shape)
    rate = _rate(var, eps)
    slope, tilt = mul(w, rate), scale(mul(rate, dw), factor=share)
    along, even = batch_norm_sums(ddx, x, mean, var, eps=eps)
    plain = total(mul(ddx, dy), axes=(0, *range(2, len(x.shape))))
    held = sub(plain, scale(add(mul(db, even), mul(dw, along)), factor=share))
    steep = mul(slope, tilt)
    left = sub(held, scale(mul(dw, along), factor=share))
    bent = scale(mul(mul(slope, mul(rate, rate)), left), factor=-0.5)
    return (
        mul(ddx, across(slope, x)),
        neg(mul(ddx, across(steep, x))),
        mul(rate, held),
        mul(steep, even),
        bent,
        scale(mul(slope, along), factor=-share),
        scale(mul(slope, even), factor=-share),
    )


def _fixed(x: Spec, w: Spec, b: Spec, mean: Spec, var: Spec, *, eps: float) -> Spec:
    _channels(x, "batch_norm", weight=w, bias=b, running_mean=mean, running_var=var)
    return x


def _fixed_cost(y: Spec, x: Spec, *specs: Spec, eps: float) -> Cost:
    c = x.shape[1]
    return Cost(add=2 * x.size + c, mul=x.size, div=c, exp=c)


@primitive(infer=_fixed, cost=_fixed_cost)
def batch_norm_eval(
    x: NDArray, w: NDArray, b: NDArray, mean: NDArray, var: NDArray, *, eps: float
) -> NDArray:
    """y = w (x - mean) / sqrt(var + eps) + b with given statistics, which have no gradient."""
    return _normalised(x, w, b, mean, var, eps)


@batch_norm_eval.vjp("x")
def _(dy: Value, w: Value, var: Value, specs: tuple[Spec, ...], eps: float) -> Value:
    return fit(mul(dy, across(mul(w, _rate(var, eps)), dy)), specs[0])


@batch_norm_eval.vjp("w", "b")
def _(
    dy: Value, x: Value, mean: Value, var: Value, specs: tuple[Spec, ...], eps: float
) -> tuple[Value, Value]:
    dw, db = batch_norm_sums(dy, x, mean, var, eps=eps)
    return fit(dw, specs[1]), fit(db, specs[2])
