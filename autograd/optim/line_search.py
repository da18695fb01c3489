"""Line search for the strong Wolfe conditions (Nocedal and Wright 2006, algorithms 3.5 and 3.6)."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

from ..array import Array

DECREASE, CURVATURE = 1e-4, 0.9


class Point(NamedTuple):
    """What a function is along a direction: after `t` of it, its value, gradient and slope."""

    t: float
    value: float
    gradient: Array
    slope: float


def strong_wolfe(
    probe: Callable[[float], Point], start: Point, t: float, shortest: float, most: int
) -> tuple[Point, int]:
    """Return a point whose value is well below that of `start`, and whose slope is well above, and
    how many points were probed: `t`, and up to `most` others. Brackets narrower than `shortest` are
    not divided."""
    before, now, tried = start, probe(t), 1
    while tried <= most:
        high = _too_high(now, start) or (tried > 2 and now.value >= before.value)
        if not high and _flat(now, start):
            return now, tried
        if high or now.slope >= 0:
            return _zoom(probe, start, (before, now), tried, shortest, most)
        bounds = now.t + 0.01 * (now.t - before.t), 10 * now.t
        t = _lowest(before, now, bounds)
        before, now, tried = now, probe(t), tried + 1
    return min(start, now, key=lambda point: point.value), tried


def _zoom(
    probe: Callable[[float], Point], start: Point, bracket: tuple[Point, Point], tried: int,
    shortest: float, most: int,
) -> tuple[Point, int]:  # fmt: skip
    """Narrow a bracket that has such a point."""
    low, high = sorted(bracket, key=lambda point: point.value)
    stalled = False
    while tried <= most and abs(high.t - low.t) >= shortest:
        first, last = sorted((low.t, high.t))
        t, stalled = _inside(_lowest(low, high, (first, last)), first, last, stalled)
        now, tried = probe(t), tried + 1
        if _too_high(now, start) or now.value >= low.value:
            low, high = sorted((low, now), key=lambda point: point.value)
            continue
        if _flat(now, start):
            return now, tried
        low, high = now, low if now.slope * (high.t - low.t) >= 0 else high
    return low, tried


def _too_high(point: Point, start: Point) -> bool:
    return point.value > start.value + DECREASE * point.t * start.slope


def _flat(point: Point, start: Point) -> bool:
    return abs(point.slope) <= -CURVATURE * start.slope


def _inside(t: float, first: float, last: float, stalled: bool) -> tuple[float, bool]:
    """Return a step that is not too near an end of a bracket for the second time in a row, and
    whether it is near one."""
    margin = 0.1 * (last - first)
    if min(last - t, t - first) >= margin:
        return t, False
    if not stalled and first < t < last:
        return t, True
    return (last - margin if last - t < t - first else first + margin), False


def _lowest(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """Return where the cubic through two points is lowest, within bounds."""
    least, most = bounds
    mean = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = mean * mean - a.slope * b.slope
    root = sqrt(max(square, 0.0))
    a, b = sorted((a, b), key=lambda point: point.t)
    divisor = b.slope - a.slope + 2 * root
    if square < 0 or not divisor:
        return (least + most) / 2
    t = b.t - (b.t - a.t) * (b.slope + root - mean) / divisor
    return min(max(t, least), most)
