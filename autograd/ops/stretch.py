"""Resampling along one axis: each result is a weighted sum of a few elements.

It is linear, and the transposed operation is its derivative. Positions and weights are torch's."""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from ..recent import CALLS

# How many elements a result is made of; "corners" maps the outermost elements to one another, and
# "smooth" makes a result of more where results are further apart than elements.
TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "linear corners": 2, "cubic": 4,
        "cubic corners": 4}  # fmt: skip
SHARP = -0.75  # the free coefficient of cubic convolution (Keys 1981), torch's
SMOOTH = -0.5  # and that of "smooth" kinds
X = TypeVar("X", bound=Any)
REACH = {"linear": 1, "cubic": 2}  # how far from a result its elements are


def taps_of(kind: str, step: float) -> int:
    """Return how many elements a result is made of."""
    name, _, how = kind.partition(" ")
    return 2 * ceil(REACH[name] * max(step, 1)) + 1 if how == "smooth" else TAPS[kind]


class Places(NamedTuple):
    """For each tap and each result, the element and its weight, both (taps, results).

    The elements of a tap ascend."""

    elements: NDArray
    weights: NDArray


@lru_cache(CALLS)
def places(size: int, out: int, step: float, kind: str) -> Places:
    """Return the places of `out` results among `size` elements, `step` elements apart."""
    at = np.arange(out)
    if kind.endswith("smooth"):
        return _smooth(size, (at + 0.5) * step, max(step, 1.0), kind.split()[0])
    if TAPS[kind] == 1:
        # In float32, as in torch: elsewhere results would differ where a place is on a border.
        spot = np.float32(step) * (at + np.float32(kind == "nearest-exact") / 2).astype(np.float32)
        return Places(np.minimum(spot.astype(np.int64), size - 1)[None], np.ones((1, out)))
    whole = at * (max(size - 1, 0) / max(out - 1, 1))
    source = whole if kind.endswith("corners") else (at + 0.5) * step - 0.5
    source = source if TAPS[kind] == 4 else np.maximum(source, 0)
    first = np.floor(source).astype(np.int64)
    if TAPS[kind] == 2:
        first = np.minimum(first, size - 1)
        weights, taps = np.stack([1 - (source - first), source - first]), np.arange(2)
    else:
        taps = np.arange(-1, 3)
        weights = _cubic(np.abs(source - first - taps[:, None]), SHARP)
    return Places((first + taps[:, None]).clip(0, size - 1), weights)


def _smooth(size: int, centres: NDArray, scale: float, name: str) -> Places:
    """Return places with the weights stretched by a scale, so that each element counts."""
    reach = REACH[name] * scale
    first = (centres - reach + 0.5).astype(np.int64).clip(0)
    behind = (centres + reach + 0.5).astype(np.int64).clip(max=size)
    elements = first + np.arange(2 * ceil(reach) + 1)[:, None]
    distance = np.abs(elements + 0.5 - centres) / scale
    weights = _cubic(distance, SMOOTH) if name == "cubic" else 1 - distance
    weights = np.where((elements < behind) & (distance < REACH[name]), weights, 0)
    return Places(elements.clip(0, size - 1), weights / weights.sum(0))


def _cubic(distance: NDArray, sharp: float) -> NDArray:
    """Return the weights of elements at a distance of up to 2 (Keys 1981)."""
    return np.where(distance <= 1, near_weight(distance, sharp), far_weight(distance, sharp))


def near_weight(distance: X, sharp: float) -> X:
    """Return the weights of cubic convolution at distances from 0 to 1, arrays or tensors."""
    return ((sharp + 2) * distance - (sharp + 3)) * distance**2 + 1


def far_weight(distance: X, sharp: float) -> X:
    """Return its weights at distances from 1 to 2."""
    return sharp * (((distance - 5) * distance + 8) * distance - 4)


def _stretched(x: Spec, *, axis: int, size: int, **attrs: Any) -> Spec:
    """Shape rule of both directions."""
    return Spec((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)


def _cost(y: Spec, x: Spec, *, kind: str, step: float, **attrs: Any) -> Cost:
    """Cost rule of stretch: a product for each tap, and their sum."""
    taps = taps_of(kind, step)
    return Cost(mul=taps * y.size, add=(taps - 1) * y.size) if taps > 1 else Cost()


def _column(numbers: NDArray, x: NDArray, axis: int) -> NDArray:
    """Return numbers along an axis, in x's type, in a shape that broadcasts against it."""
    return numbers.astype(x.dtype).reshape(-1, *[1] * (x.ndim - axis - 1))


@primitive(infer=_stretched, cost=_cost)
def stretch(x: NDArray, *, axis: int, size: int, step: float, kind: str) -> NDArray:
    """Return `size` results along an axis, each the weighted sum of the elements of its taps."""
    elements, weights = places(x.shape[axis], size, step, kind)
    y = np.take(x, elements[0], axis)
    if len(elements) == 1:
        return y
    y = y * _column(weights[0], x, axis)
    for tap, weight in zip(elements[1:], weights[1:], strict=True):
        y += np.take(x, tap, axis) * _column(weight, x, axis)
    return y


@stretch.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], axis: int, step: float, kind: str) -> Value:
    return stretch_sum(dy, axis=axis, size=specs[0].shape[axis], step=step, kind=kind)


def _sum_cost(dx: Spec, dy: Spec, *, kind: str, step: float, **attrs: Any) -> Cost:
    """Cost rule of stretch_sum: a sum for each tap and, if there are several, a product."""
    taps = taps_of(kind, step)
    return Cost(add=taps * dy.size, mul=taps * dy.size if taps > 1 else 0)


@primitive(infer=_stretched, cost=_sum_cost, outputs=("dx",))
def stretch_sum(dy: NDArray, *, axis: int, size: int, step: float, kind: str) -> NDArray:
    """Return dx: each dy, times its weights, added to the elements of its taps: stretch
    transposed."""
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype)
    if not dy.size or not size:
        return dx
    to = np.moveaxis(dx, axis, 0)
    for elements, weights in zip(*places(size, dy.shape[axis], step, kind), strict=True):
        part = dy if kind in ("nearest", "nearest-exact") else dy * _column(weights, dy, axis)
        # Elements ascend, so those of one place lie side by side.
        starts = np.flatnonzero(np.diff(elements, prepend=-1))
        to[elements[starts]] += np.moveaxis(np.add.reduceat(part, starts, axis), axis, 0)
    return dx


@stretch_sum.vjp("dy")
def _(ddx: Value, specs: tuple[Spec, ...], axis: int, step: float, kind: str) -> Value:
    return stretch(ddx, axis=axis, size=specs[0].shape[axis], step=step, kind=kind)
