"""Kernels of batch normalisation: forward, its statistics alone, and the gradients of x, w and b.

A kernel is made for a number of channels; how many rows there are it is told. The loops are those
of `batch_norm_passes`: a pass that sums up statistics, float64 arithmetic for each channel, whose
results are written as coefficients for all pixels of a row, and a pass that writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.isa.targets import Target
from ..compiler.language import KernelBuilder
from ..compiler.vectors import Vector
from .batch_norm_passes import Extent, Formula, NormRows, Passes, tiles
from .epilogue import NOTHING, Epilogue


def _normalising(k: KernelBuilder, epilogue: Epilogue) -> Formula:
    """Return the formula of a normalised vector, from x (and a residual) and mean, slope, bias."""

    def formula(values: Sequence[Vector], coefficients: Sequence[Vector]) -> Vector:
        mean, slope, bias = coefficients
        y = k.fma(values[0] - mean, slope, bias)
        if epilogue.residual:
            y = y + values[1]
        # Not the larger of y and 0, so that what is not a number stays.
        return k.select(y < 0.0, 0.0, y) if epilogue.relu else y

    return formula


def normalise(
    target: Target, rows: NormRows, eps: float, known: bool, epilogue: Epilogue = NOTHING
) -> KernelBuilder:
    """Return the kernel of y = w (x - mean) / sqrt(var + eps) + b: x, residual, w, b, mean, var, y,
    room and the three of Extent. Mean and variance are read where they are `known`, else computed
    and written."""
    names = ("x", "residual", "w", "b", "mean", "var", "y", "room")
    k = KernelBuilder(target, rows.dtype, names, Extent._fields)
    x, residual, w, b, mean, var, y, room, *extent = k.arguments
    passes = Passes(k, rows, room, extent)
    if not known:
        passes.moments(x)
    for c, (m,) in tiles(k, rows.channels, 1):
        if known:
            middle, spread = passes.doubled(mean, c, m), passes.doubled(var, c, m)
        else:
            middle, spread = passes.statistics(x, c, m)
            passes.put(middle, mean, c, m)
            passes.put(spread, var, c, m)
            # Rounded as it is written, so that a deferred normalisation gives the same bits.
            spread = passes.d.convert(k.convert(spread))
        slope = passes.doubled(w, c, m) / passes.d.sqrt(spread + eps)
        for which, value in enumerate((middle, slope, passes.doubled(b, c, m))):
            passes.set(which, c, m, value)
    reads = (x, residual) if epilogue.residual else (x,)
    passes.write(y, reads, 3, _normalising(k, epilogue))
    return k


def statistics(target: Target, rows: NormRows) -> KernelBuilder:
    """Return the kernel of mean and variance: x, mean, var, room and the three of Extent."""
    k = KernelBuilder(target, rows.dtype, ("x", "mean", "var", "room"), Extent._fields)
    x, mean, var, room, *extent = k.arguments
    passes = Passes(k, rows, room, extent)
    passes.moments(x)
    for c, (m,) in tiles(k, rows.channels, 1):
        for value, to in zip(passes.statistics(x, c, m), (mean, var), strict=True):
            passes.put(value, to, c, m)
    return k


def gradient_sums(target: Target, rows: NormRows, eps: float, masked: bool) -> KernelBuilder:
    """Return the kernel of dw = the sum of dy (x - mean) / sqrt(var + eps) and db = the sum of dy,
    which counts as 0 where a mask is not positive: dy, mask, x, mean, var, dw, db, room and the
    three of Extent."""
    names = ("dy", "mask", "x", "mean", "var", "dw", "db", "room")
    k = KernelBuilder(target, rows.dtype, names, Extent._fields)
    dy, mask, x, mean, var, dw, db, room, *extent = k.arguments
    passes = Passes(k, rows, room, extent)
    passes.products(x, dy, mask if masked else None, mean)
    for c, (m,) in tiles(k, rows.channels, 1):
        root = passes.d.sqrt(passes.doubled(var, c, m) + eps)
        passes.put(passes.folded(0, c, m) / root, dw, c, m)
        passes.put(passes.folded(1, c, m), db, c, m)
    return k


def gradient(target: Target, rows: NormRows, eps: float, masked: bool) -> KernelBuilder:
    """Return the kernel of dx = w r (dy - db / n - (x - mean) r dw / n), r = 1 / sqrt(var + eps),
    where dy counts as 0 where a mask is not positive: dy, mask, x, w, mean, var, dw, db, dx, room,
    the three of Extent for the rows to be written, and n, of all of them."""
    names = ("dy", "mask", "x", "w", "mean", "var", "dw", "db", "dx", "room")
    k = KernelBuilder(target, rows.dtype, names, (*Extent._fields, "pixels"))
    dy, mask, x, *channels, dx, room, blocks, rest, tail, pixels = k.arguments
    passes = Passes(k, rows, room, (blocks, rest, tail))
    d = passes.d
    share = 1.0 / d.number(pixels)
    for c, (m,) in tiles(k, rows.channels, 1):
        w, mean, var, dw, db = (passes.doubled(a, c, m) for a in channels)
        rate = 1.0 / d.sqrt(var + eps)
        slope = w * rate
        coefficients = mean, slope, slope * rate * dw * share, slope * db * share
        for which, value in enumerate(coefficients):
            passes.set(which, c, m, value)

    def formula(values: Sequence[Vector], known: Sequence[Vector]) -> Vector:
        middle, slope, tilt, level = known
        top = k.select(values[2] <= 0.0, 0.0, values[0]) if masked else values[0]
        return k.fma(top, slope, 0.0 - k.fma(values[1] - middle, tilt, level))

    passes.write(dx, (dy, x, mask) if masked else (dy, x), 4, formula)
    return k
