"""Batch normalisation. Axis 1 is the channel; a channel has n = elements / channels values.

Arrays of any layout are walked as one flat row of channels-last elements, in blocks that stay in
cache. Per-channel factors are repeated to the length of a block, because NumPy is twice as fast
where nothing is broadcast. Statistics are formed in `dtypes.STATISTICS` and rounded once."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import STATISTICS, computed_in, is_floating
from ..ledger import Cost
from ..primitive import Value, primitive
from .elementwise import add, div, fit, mul, neg, sqrt, sub
from .reduce import broadcast_to, scale
from .reduce import sum as total
from .scratch import scratch
from .shape import full, reshape

BLOCK = 1 << 15  # elements worked on at a time, so that temporaries stay in the cache
WIDE = 512  # elements in a row that is summed: short rows would cost overhead


class _Blocks:
    """The elements of x in channels-last order, cut into blocks.

    Per-channel numbers are repeated as often as a block needs."""

    def __init__(self, x: NDArray) -> None:
        self.x, self.channels = x, x.shape[1]
        self.repeats = max(1, WIDE // max(self.channels, 1))
        self.wide = self.channels * self.repeats
        self.size = min(x.size, self.wide * max(1, BLOCK // max(self.wide, 1)))

    def flat(self, x: NDArray) -> NDArray:
        """Return an array of x's shape as one row, a view where it is channels-last."""
        return np.moveaxis(x, 1, -1).reshape(-1)

    def slices(self) -> Iterator[slice]:
        """Yield the slice of each block in the flat row."""
        for i in range(0, self.x.size, self.size or 1):
            yield slice(i, min(i + self.size, self.x.size))

    def room(self, name: str) -> NDArray:
        """Return scratch memory for a block."""
        return scratch(name, (self.size,), self.x.dtype)

    def each(self, v: NDArray) -> NDArray:
        """Return per-channel numbers (C,) repeated to the length of a block."""
        row = np.tile(v.astype(self.x.dtype), self.repeats)
        return np.tile(row, -(-self.size // max(self.wide, 1)))[: self.size]

    def sums(self) -> NDArray:
        """Return zeros for `add`, in the type of statistics and as wide as the rows that are
        added."""
        return np.zeros(self.wide, STATISTICS)

    def add(self, sums: NDArray, block: NDArray) -> None:
        """Add the rows of a block to `sums`.

        A product with ones adds them by BLAS, several times as fast as `numpy.sum` along the first
        axis."""
        whole = len(block) // self.wide * self.wide
        rows = block[:whole].reshape(-1, self.wide)
        # Rows of one block are added in the block's own type, blocks in the type of statistics.
        sums += np.ones(len(rows), block.dtype) @ rows
        if whole < len(block):
            sums[: len(block) - whole] += block[whole:]

    def folded(self, sums: NDArray) -> NDArray:
        """Return the sum of each channel (C,) from sums of rows."""
        return np.asarray(sums.reshape(self.repeats, self.channels).sum(0))

    def shaped(self, flat: NDArray) -> NDArray:
        """Return a flat row in the shape and memory layout of x."""
        moved = np.moveaxis(self.x, 1, -1)
        y = np.moveaxis(flat.reshape(moved.shape), -1, 1)
        if moved.flags.c_contiguous:
            return y
        result = np.empty_like(self.x)
        np.copyto(result, y)
        return result


def moments(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return the mean and the (biased) variance of each channel (C,), in the type of statistics.

    Deviations from the first block's mean are added up block by block, so that neither a mean far
    from zero nor many elements cost accuracy."""
    blocks = _Blocks(x)
    flat, room, count = blocks.flat(x), blocks.room("off"), x.size // blocks.channels
    first = flat[: blocks.size].reshape(-1, blocks.channels)
    # Any value near the mean will do as a shift; this one costs a single block.
    guess = first.mean(0, dtype=STATISTICS).astype(x.dtype)
    shift, sums, squares = blocks.each(guess), blocks.sums(), blocks.sums()
    for at in blocks.slices():
        some = at.stop - at.start
        off = np.subtract(flat[at], shift[:some], out=room[:some])
        blocks.add(sums, off)
        blocks.add(squares, np.multiply(off, off, out=off))
    off_mean, square = blocks.folded(sums) / count, blocks.folded(squares) / count
    # var = E[(x - s)^2] - (mean - s)^2 cancels little, since s is near the mean; rounding may still
    # leave a variance just below 0.
    return guess + off_mean, np.maximum(square - off_mean * off_mean, 0)


def _normalised(
    x: NDArray, w: NDArray, b: NDArray, mean: NDArray, var: NDArray, eps: float
) -> NDArray:
    """Return w (x - mean) / sqrt(var + eps) + b, block by block."""
    blocks = _Blocks(x)
    flat, room, y = blocks.flat(x), blocks.room("off"), np.empty(x.size, x.dtype)
    slope = blocks.each(w / np.sqrt(var.astype(STATISTICS) + eps))
    middle, bias = blocks.each(mean), blocks.each(b)
    for at in blocks.slices():
        some = at.stop - at.start
        off = np.subtract(flat[at], middle[:some], out=room[:some])
        off *= slope[:some]
        np.add(off, bias[:some], out=y[at])
    return blocks.shaped(y)


def per_channel(x: Spec, name: str, **arguments: Spec) -> Spec:
    """Return the Spec of one number per channel, in the type of sums, having checked x and its
    per-channel arguments.

    TypeError for an x that is not floating-point, ValueError for shapes that do not fit."""
    if not is_floating(x.dtype):
        raise TypeError(f"{name}: expected floating-point numbers, got {x.dtype}")
    if len(x.shape) < 2:
        raise ValueError(f"{name}: expected an input (N, C, ..), got shape {x.shape}")
    for what, spec in arguments.items():
        if spec.shape != x.shape[1:2]:
            raise ValueError(
                f"{name}: expected {what} ({x.shape[1]},) for input {x.shape}, got {spec.shape}"
            )
    return Spec(x.shape[1:2], computed_in(x.dtype))


def _batch(x: Spec, w: Spec, b: Spec, *, eps: float) -> tuple[Spec, ...]:
    """Shape rule of batch_norm. ValueError for a single value per channel, whose variance is 0."""
    each = per_channel(x, "batch_norm", weight=w, bias=b)
    if x.size < 2 * x.shape[1] or not x.shape[1]:
        raise ValueError(
            f"batch_norm: expected more than one value per channel, got an input of {x.shape}"
        )
    return x, each, each


def _batch_cost(y: tuple[Spec, ...], x: Spec, *specs: Spec, eps: float) -> Cost:
    """Cost rule of batch_norm, see there; the square root and the division come once per
    channel."""
    c = x.shape[1]
    return Cost(add=5 * x.size + c, mul=2 * x.size + 3 * c, div=c, exp=c)


@primitive(infer=_batch, cost=_batch_cost, outputs=("y", "mean", "var"))
def batch_norm(
    x: NDArray, w: NDArray, b: NDArray, *, eps: float
) -> tuple[NDArray, NDArray, NDArray]:
    """Return w (x - mean) / sqrt(var + eps) + b, with the mean and the biased variance of each
    channel.

    Statistics are those of the batch (Ioffe and Szegedy 2015). Counted per element: a sum, a
    deviation, its square and their sum; then a deviation, times a slope, plus b."""
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
        more = fit(_statistics_dx(dmean, dvar, x, mean), specs[0])
        dx = more if dx is None else add(dx, more)
    return dx, dw, db


def across(v: Value, x: Value) -> Value:
    """Return per-channel numbers (C,) in a shape that broadcasts against x."""
    return reshape(v, shape=(1, v.shape[0], *(1 for _ in x.shape[2:])))


def _statistics_dx(dmean: Value | None, dvar: Value | None, x: Value, mean: Value) -> Value:
    """Return the gradient that mean and variance pass on to x: (dmean + 2 dvar (x - mean)) / n."""
    share = x.shape[1] / prod(x.shape)
    parts = []
    if dmean is not None:
        parts.append(broadcast_to(across(scale(dmean, factor=share), x), shape=x.shape))
    if dvar is not None:
        parts.append(mul(sub(x, across(mean, x)), across(scale(dvar, factor=2 * share), x)))
    return parts[0] if len(parts) == 1 else add(*parts)


def _sums(dy: Spec, x: Spec, mean: Spec, var: Spec, *, eps: float) -> tuple[Spec, Spec]:
    """Shape rule of batch_norm_sums: two numbers per channel."""
    each = per_channel(x, "batch_norm", mean=mean, var=var)
    return each, each


def _sums_cost(y: tuple[Spec, ...], dy: Spec, x: Spec, *specs: Spec, eps: float) -> Cost:
    """Cost rule of batch_norm_sums: per element a deviation, a product and two sums."""
    c = x.shape[1]
    return Cost(add=3 * x.size + c, mul=x.size, div=c, exp=c)


@primitive(infer=_sums, cost=_sums_cost, outputs=("dw", "db"), phase="backward_weights")
def batch_norm_sums(
    dy: NDArray, x: NDArray, mean: NDArray, var: NDArray, *, eps: float
) -> tuple[NDArray, NDArray]:
    """Return dw = the sum of dy (x - mean) / sqrt(var + eps), and db = the sum of dy, per channel.

    The gradient of x needs both sums even where w and b have no gradient of their own."""
    blocks = _Blocks(x)
    flat, grad, room = blocks.flat(x), blocks.flat(dy), blocks.room("off")
    middle, slopes, sums = blocks.each(mean), blocks.sums(), blocks.sums()
    for at in blocks.slices():
        some = at.stop - at.start
        off = np.subtract(flat[at], middle[:some], out=room[:some])
        blocks.add(slopes, np.multiply(off, grad[at], out=off))
        blocks.add(sums, grad[at])
    dw = blocks.folded(slopes) / np.sqrt(var.astype(STATISTICS) + eps)
    return dw.astype(x.dtype), blocks.folded(sums).astype(x.dtype)


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
    """Cost rule of batch_norm_dx: per element three additions and two products, the rest per
    channel."""
    c = x.shape[1]
    return Cost(add=3 * x.size + c, mul=2 * x.size + 4 * c, div=c, exp=c)


@primitive(infer=lambda dy, x, *s, eps: x, cost=_dx_cost, outputs=("dx",))
def batch_norm_dx(
    dy: NDArray, x: NDArray, w: NDArray, mean: NDArray, var: NDArray, dw: NDArray, db: NDArray,
    *, eps: float,
) -> NDArray:  # fmt: skip
    """Return dx = w r (dy - db / n - (x - mean) r dw / n) with r = 1 / sqrt(var + eps)."""
    blocks, count = _Blocks(x), x.size // x.shape[1]
    rate = 1 / np.sqrt(var.astype(STATISTICS) + eps)
    slope, middle = blocks.each(w * rate), blocks.each(mean)
    tilt, level = blocks.each(w * rate**2 * dw / count), blocks.each(w * rate * db / count)
    flat, grad, dx = blocks.flat(x), blocks.flat(dy), np.empty(x.size, x.dtype)
    room, steep = blocks.room("off"), blocks.room("steep")
    for at in blocks.slices():
        some = at.stop - at.start
        off = np.subtract(flat[at], middle[:some], out=room[:some])
        off *= tilt[:some]
        off += level[:some]
        top = np.multiply(grad[at], slope[:some], out=steep[:some])
        np.subtract(top, off, out=dx[at])
    return blocks.shaped(dx)


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
    dslope = sub(plain, scale(add(mul(db, even), mul(dw, along)), factor=share))
    steep = mul(slope, tilt)
    dvariance = sub(dslope, scale(mul(dw, along), factor=share))
    bent = scale(mul(mul(slope, mul(rate, rate)), dvariance), factor=-0.5)
    return (
        mul(ddx, across(slope, x)),
        neg(mul(ddx, across(steep, x))),
        mul(rate, dslope),
        mul(steep, even),
        bent,
        scale(mul(slope, along), factor=-share),
        scale(mul(slope, even), factor=-share),
    )


def _fixed(x: Spec, w: Spec, b: Spec, mean: Spec, var: Spec, *, eps: float) -> Spec:
    """Shape rule of batch_norm_eval."""
    per_channel(x, "batch_norm", weight=w, bias=b, running_mean=mean, running_var=var)
    return x


def _fixed_cost(y: Spec, x: Spec, *specs: Spec, eps: float) -> Cost:
    """Cost rule of batch_norm_eval: per element a deviation, a product and an addition."""
    c = x.shape[1]
    return Cost(add=2 * x.size + c, mul=x.size, div=c, exp=c)


@primitive(infer=_fixed, cost=_fixed_cost)
def batch_norm_eval(
    x: NDArray, w: NDArray, b: NDArray, mean: NDArray, var: NDArray, *, eps: float
) -> NDArray:
    """Return w (x - mean) / sqrt(var + eps) + b with fixed statistics, which have no gradient."""
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
