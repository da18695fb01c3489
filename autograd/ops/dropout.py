"""Dropout and draws of 0 or 1, which depend on a key per sample and on nothing else.

The same sample gets the same mask on any number of ranks, in any batch and on any backend, because
the random bits are hashes (SplitMix64) of the sample's key, the use within the step and the
element's index, not draws from a shared generator."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import BOOL, is_floating
from ..ledger import Cost
from ..primitive import Value, primitive
from ..splitmix64 import GAMMA, mix, words
from .rules import each

BLOCK = 1 << 15  # hashes worked on at a time, so that they stay in the cache


def keep_mask(keys: NDArray, shape: tuple[int, ...], p: float, use: int) -> NDArray:
    """Return truth values of a shape (N, ..), each False with probability p, to a resolution of
    2^-32.

    Element j of sample n, counted in row-major order, is decided by the 32-bit half j % 2 of hash j
    // 2 of the stream that starts from key n and the number of the use. No other sample and no
    memory layout has a bearing on it."""
    count = int(np.prod(shape[1:]))
    # The mask compares 32-bit hashes with an integer: no rounding, so no platform differs.
    least = round(p * 2**32)
    keep = np.empty((shape[0], count), BOOL)
    if least in (0, 2**32):
        keep[...] = least == 0
        return keep.reshape(shape)
    for rows, hashes in _hashes(keys, count, use):
        np.greater_equal(hashes, np.uint32(least), out=keep[rows])
    return keep.reshape(shape)


def _hashes(keys: NDArray, count: int, use: int) -> Iterator[tuple[slice, NDArray]]:
    """Yield rows, some at a time, and their 32-bit hashes (rows, count), see `keep_mask`."""
    start = mix(words(keys) + words([use * GAMMA % 2**64]))
    steps = (np.arange((count + 1) // 2, dtype=np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    samples = max(1, BLOCK // max(steps.size, 1))
    for i in range(0, len(start), samples):
        hashes = mix(start[i : i + samples, None] + steps)
        yield slice(i, i + samples), hashes.astype("<u8", copy=False).view("<u4")[:, :count]


def _dropped(x: Spec, keys: Spec, *, p: float, use: int, channels: bool) -> tuple[Spec, Spec]:
    """Shape rule of dropout: the result and the mask. ValueError for keys that are not one per
    row."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: expected p in [0, 1], got {p}")
    if not is_floating(x.dtype):
        raise TypeError(f"dropout: expected floating-point numbers, got {x.dtype}")
    _one_for_each_row("dropout", x, keys)
    return x, Spec((*x.shape[:2], *[1] * (len(x.shape) - 2)) if channels else x.shape, BOOL)


def _one_for_each_row(name: str, x: Spec, keys: Spec) -> None:
    if keys.shape != x.shape[:1]:
        raise ValueError(
            f"{name}: expected keys {x.shape[:1]} for the rows of {x.shape}, got {keys.shape}"
        )


def _scaled(x: NDArray, keep: NDArray, p: float) -> NDArray:
    """Return x / (1 - p) where kept, else 0."""
    y = np.empty_like(x)
    # Bits times 0 or 1: unlike a product of floats, what is dropped is 0 where x is infinite too.
    bits = np.dtype(f"i{x.itemsize}")
    np.multiply(x.view(bits), keep, out=y.view(bits))
    y *= x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return y


def _cost(ys: tuple[Spec, Spec], *specs: Spec, **attrs: object) -> Cost:
    """Cost rule of dropout: a comparison for each element of the mask, a product for each of x."""
    return Cost(cmp=ys[1].size, mul=ys[0].size)


@primitive(infer=_dropped, cost=_cost, outputs=("y", "keep"))
def dropout(
    x: NDArray, keys: NDArray, *, p: float, use: int, channels: bool
) -> tuple[NDArray, NDArray]:
    """Return x / (1 - p) where kept, else 0 (inverted dropout, Srivastava et al. 2014).

    keys (N,) uint64 name the samples; `use` tells apart several dropouts in one step. With
    `channels`, the channels of x (N, C, ..) are kept or dropped as a whole (Tompson et al. 2015).
    The mask `keep`, one byte an element, is saved for the derivative. Random bits are not counted.
    """
    if channels:
        keep = keep_mask(keys, (*x.shape[:2], *[1] * (x.ndim - 2)), p, use)
    else:
        keep = np.empty_like(x, BOOL)
        np.copyto(keep, keep_mask(keys, x.shape, p, use))
    return _scaled(x, keep, p), keep


@dropout.vjp("x")
def _(dy: Value, keep: Value, p: float) -> Value:
    return dropout_dx(dy, keep, p=p)


@primitive(infer=lambda dy, keep, *, p: dy, cost=each(mul=1), outputs=("dx",))
def dropout_dx(dy: NDArray, keep: NDArray, *, p: float) -> NDArray:
    """Return dx: dy / (1 - p) where kept, else 0."""
    return _scaled(dy, keep, p)


@dropout_dx.vjp("dy")
def _(ddx: Value, keep: Value, p: float) -> Value:
    return dropout_dx(ddx, keep, p=p)


def _drawn(x: Spec, keys: Spec, *, use: int) -> Spec:
    """Shape rule of bernoulli."""
    if not is_floating(x.dtype):
        raise TypeError(f"bernoulli: expected floating-point numbers, got {x.dtype}")
    _one_for_each_row("bernoulli", x, keys)
    return x


@primitive(infer=_drawn, cost=each(cmp=1))
def bernoulli(x: NDArray, keys: NDArray, *, use: int) -> NDArray:
    """Return 1 with probability x, else 0, element by element, to a resolution of 2^-32.

    keys (N,) uint64 name the samples, which are the rows of x (N, ..); `use` tells apart several
    draws in one step. Random bits are not counted."""
    y, count = np.empty(x.shape, x.dtype), prod(x.shape[1:])
    flat, drawn = x.reshape(len(x), count), y.reshape(len(x), count)
    for rows, hashes in _hashes(keys, count, use):
        drawn[rows] = hashes < flat[rows] * np.float64(2**32)
    return y
