"""The shapes of the drawn digits: control points, and strokes through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..source import Ids

STAMPS = 56
MOST_POINTS = 14

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Glyph:
    """One way to write a digit. Points are (x, y) with y pointing down, about (±0.6, ±1) at most.

    A stroke lists the points that a smooth curve passes through; it is closed if it ends at the
    point where it begins. Strokes that share a point meet in a corner, however points are moved.
    """

    digit: int
    points: tuple[tuple[float, float], ...]
    strokes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Outlines:
    """All glyphs as arrays. `basis` (points, glyphs, stamps) maps control points to stamps.

    `x` and `y` (glyphs, points) are the control points. `inside` (glyphs, stamps) is 0 for the last
    stamp of each stroke, which no line connects to the next stamp, and 1 for others. The glyphs of
    digit d are the `number[d]` from `first[d]` on.
    """

    basis: Real
    x: Real
    y: Real
    inside: Real
    first: Ids
    number: Ids

    def choose(self, digits: Ids, uniform: Real) -> Ids:
        """Return a glyph (n,) for each digit (n,), by a uniform number in [0, 1) for each."""
        return self.first[digits] + (uniform * self.number[digits]).astype(np.int64)


# fmt: off
GLYPHS = (
    Glyph(
        0,
        ((0, -1), (0.4, -0.72), (0.54, 0), (0.42, 0.7), (0, 1), (-0.42, 0.7), (-0.54, 0),
         (-0.4, -0.72)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 0),),
    ),
    Glyph(
        0,
        ((0.28, -0.85), (-0.1, -0.98), (-0.45, -0.5), (-0.5, 0.3), (-0.15, 0.97), (0.3, 0.75),
         (0.5, 0.1), (0.4, -0.6), (0.05, -0.92)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8),),
    ),
    Glyph(
        0,
        ((0, -0.72), (0.5, -0.5), (0.66, 0), (0.5, 0.55), (0, 0.74), (-0.5, 0.55), (-0.66, 0),
         (-0.5, -0.5)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 0),),
    ),
    Glyph(1, ((0, -1), (0, 0), (0, 1)), ((0, 1, 2),)),
    Glyph(1, ((-0.34, -0.5), (0.06, -1), (0.03, 0), (0, 1)), ((0, 1), (1, 2, 3))),
    Glyph(
        1,
        ((-0.34, -0.55), (0.03, -1), (0.02, 0), (0, 0.95), (-0.4, 0.97), (0.42, 0.93)),
        ((0, 1), (1, 2, 3), (4, 3, 5)),
    ),
    Glyph(
        2,
        ((-0.48, -0.55), (-0.2, -0.95), (0.3, -0.9), (0.46, -0.45), (0.1, 0.2), (-0.5, 0.93),
         (0.05, 0.88), (0.55, 0.93)),
        ((0, 1, 2, 3, 4, 5), (5, 6, 7)),
    ),
    Glyph(
        2,
        ((-0.45, -0.6), (-0.1, -0.97), (0.38, -0.75), (0.35, -0.2), (0, 0.4), (-0.35, 0.88),
         (-0.52, 0.7), (-0.3, 0.52), (0.1, 0.8), (0.58, 0.85)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),),
    ),
    Glyph(
        2,
        ((-0.42, -0.8), (0.1, -0.98), (0.45, -0.65), (0.3, -0.1), (-0.25, 0.5), (-0.4, 0.85),
         (0, 0.95), (0.5, 0.7)),
        ((0, 1, 2, 3, 4, 5, 6, 7),),
    ),
    Glyph(
        3,
        ((-0.45, -0.78), (-0.05, -1), (0.4, -0.75), (0.32, -0.28), (-0.12, -0.06), (0.36, 0.14),
         (0.48, 0.6), (0.1, 0.98), (-0.48, 0.8)),
        ((0, 1, 2, 3, 4), (4, 5, 6, 7, 8)),
    ),
    Glyph(
        3,
        ((-0.44, -0.92), (0.44, -0.94), (-0.05, -0.22), (0.4, 0.05), (0.44, 0.6), (0.05, 0.98),
         (-0.48, 0.78)),
        ((0, 1), (1, 2), (2, 3, 4, 5, 6)),
    ),
    Glyph(
        3,
        ((-0.4, -0.7), (0, -0.98), (0.36, -0.7), (0.25, -0.3), (0.02, -0.1), (0.3, 0.08),
         (0.42, 0.5), (0.15, 0.92), (-0.25, 0.95), (-0.45, 0.65)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),),
    ),
    Glyph(
        4,
        ((-0.38, -0.92), (-0.5, 0.08), (0, 0.1), (0.58, 0.05), (0.3, -0.85), (0.25, 0.1),
         (0.2, 1)),
        ((0, 1), (1, 2, 3), (4, 5, 6)),
    ),
    Glyph(
        4,
        ((0.22, -1), (-0.56, 0.24), (0, 0.27), (0.6, 0.24), (0.22, 0), (0.2, 1)),
        ((0, 1), (1, 2, 3), (0, 4, 5)),
    ),
    Glyph(
        4,
        ((-0.42, -0.9), (-0.46, -0.25), (-0.15, 0.1), (0.38, -0.12), (0.44, -0.9), (0.36, 0.1),
         (0.28, 1)),
        ((0, 1, 2, 3), (4, 5, 6)),
    ),
    Glyph(
        5,
        ((0.46, -0.94), (-0.34, -0.92), (-0.4, -0.14), (0.1, -0.28), (0.48, 0.2), (0.32, 0.8),
         (-0.1, 0.98), (-0.5, 0.78)),
        ((0, 1), (1, 2), (2, 3, 4, 5, 6, 7)),
    ),
    Glyph(
        5,
        ((0.48, -0.9), (-0.05, -0.93), (-0.35, -0.6), (-0.25, -0.2), (0.2, -0.02), (0.42, 0.4),
         (0.2, 0.9), (-0.2, 0.97), (-0.48, 0.75)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8),),
    ),
    Glyph(
        5,
        ((-0.3, -0.85), (-0.4, -0.1), (0.05, -0.22), (0.42, 0.2), (0.3, 0.8), (-0.1, 0.97),
         (-0.48, 0.8), (-0.28, -0.92), (0.5, -0.96)),
        ((0, 1), (1, 2, 3, 4, 5, 6), (7, 8)),
    ),
    Glyph(
        6,
        ((0.32, -0.98), (-0.15, -0.55), (-0.44, 0.15), (-0.34, 0.8), (0.06, 0.98), (0.44, 0.6),
         (0.28, 0.14), (-0.1, 0.12), (-0.4, 0.5)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8),),
    ),
    Glyph(
        6,
        ((-0.1, -1), (-0.38, -0.2), (-0.4, 0.5), (-0.1, 0.96), (0.36, 0.8), (0.38, 0.36),
         (0, 0.2), (-0.36, 0.44)),
        ((0, 1, 2, 3, 4, 5, 6, 7),),
    ),
    Glyph(
        6,
        ((0.42, -0.85), (0.1, -0.98), (-0.3, -0.5), (-0.46, 0.2), (-0.2, 0.93), (0.25, 0.9),
         (0.42, 0.5), (0.1, 0.12), (-0.25, 0.3), (-0.1, 0.55)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),),
    ),
    Glyph(
        7,
        ((-0.5, -0.9), (0, -0.93), (0.5, -0.9), (0.12, 0), (-0.18, 1)),
        ((0, 1, 2), (2, 3, 4)),
    ),
    Glyph(
        7,
        ((-0.5, -0.92), (0.5, -0.94), (0.15, 0.05), (-0.15, 1), (-0.22, 0.06), (0.45, 0)),
        ((0, 1), (1, 2, 3), (4, 5)),
    ),
    Glyph(
        7,
        ((-0.48, -0.55), (-0.45, -0.92), (0.05, -0.85), (0.48, -0.95), (0.2, -0.2), (0.08, 1)),
        ((0, 1), (1, 2, 3), (3, 4, 5)),
    ),
    Glyph(
        8,
        ((0, -1), (-0.36, -0.62), (-0.02, -0.12), (0.42, 0.48), (0, 0.98), (-0.44, 0.5),
         (0.02, -0.06), (0.36, -0.6)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 0),),
    ),
    Glyph(
        8,
        ((0, -0.98), (-0.34, -0.56), (0, -0.1), (0.34, -0.56), (-0.42, 0.45), (0, 0.98),
         (0.42, 0.45)),
        ((0, 1, 2, 3, 0), (2, 4, 5, 6, 2)),
    ),
    Glyph(
        8,
        ((0.42, -0.82), (0.02, -0.98), (-0.36, -0.65), (0, -0.14), (0.4, 0.42), (0.06, 0.97),
         (-0.4, 0.6), (-0.1, 0), (0.4, -0.6)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8),),
    ),
    Glyph(
        9,
        ((0.4, -0.62), (0.06, -0.97), (-0.38, -0.7), (-0.34, -0.25), (0.06, -0.14), (0.38, -0.5),
         (0.36, 0.2), (0.22, 1)),
        ((0, 1, 2, 3, 4, 5), (5, 6, 7)),
    ),
    Glyph(
        9,
        ((0.42, -0.75), (0, -0.97), (-0.4, -0.6), (-0.2, -0.16), (0.25, -0.3), (0.42, -0.75),
         (0.42, 0.2), (0.1, 0.92), (-0.4, 0.8)),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8),),
    ),
    Glyph(
        9,
        ((0.36, -0.8), (0, -0.96), (-0.36, -0.6), (-0.05, -0.2), (0.32, -0.45), (0.3, 0.2),
         (0, 1)),
        ((0, 1, 2, 3, 4, 0), (0, 5, 6)),
    ),
)
# fmt: on


def outlines() -> Outlines:
    """Return GLYPHS as arrays."""
    count = len(GLYPHS)
    basis = np.zeros((MOST_POINTS, count, STAMPS))
    x, y = np.zeros((count, MOST_POINTS)), np.zeros((count, MOST_POINTS))
    inside = np.ones((count, STAMPS))
    for i, glyph in enumerate(GLYPHS):
        points = np.array(glyph.points, np.float64)
        x[i, : len(points)], y[i, : len(points)] = points.T
        basis[: len(points), i], last = _stamps(glyph, points)
        inside[i, last] = 0
    digits = np.array([glyph.digit for glyph in GLYPHS])
    number = np.bincount(digits, minlength=10)
    return Outlines(basis, x, y, inside, np.cumsum(number) - number, number)


def _stamps(glyph: Glyph, points: Real) -> tuple[Real, Ids]:
    """Return the weights (points, STAMPS) of a glyph, and the last stamp of each stroke."""
    fine = [_spline(stroke, len(points), 256) for stroke in glyph.strokes]
    runs = [_arc_length(weights, points) for weights in fine]
    ends = np.cumsum([run[-1] for run in runs])
    last = np.round(ends / ends[-1] * STAMPS).astype(np.int64)
    parts = []
    for weights, run, number in zip(fine, runs, np.diff(last, prepend=0), strict=True):
        lengths = np.linspace(0, run[-1], number)
        # Less a margin: rounding of the arc length must not move a stamp by one position.
        parts.append(weights[np.searchsorted(run, lengths - 1e-9).clip(max=len(run) - 1)])
    return np.concatenate(parts).T, last - 1


def _spline(stroke: tuple[int, ...], points: int, steps: int) -> Real:
    """Return weights (positions, points) of a Catmull-Rom spline, `steps` positions per segment."""
    closed = len(stroke) > 2 and stroke[0] == stroke[-1]
    before, after = (stroke[-2], stroke[1]) if closed else (stroke[0], stroke[-1])
    ring = (before, *stroke, after)
    t = np.arange(steps) / steps
    cubics = (
        (-t + 2 * t * t - t * t * t) / 2,
        (2 - 5 * t * t + 3 * t * t * t) / 2,
        (t + 4 * t * t - 3 * t * t * t) / 2,
        (-t * t + t * t * t) / 2,
    )
    weights = np.zeros(((len(stroke) - 1) * steps + 1, points))
    for segment in range(len(stroke) - 1):
        for k, cubic in enumerate(cubics):
            weights[segment * steps : (segment + 1) * steps, ring[segment + k]] += cubic
    weights[-1, stroke[-1]] = 1
    return weights


def _arc_length(weights: Real, points: Real) -> Real:
    """Return the arc length from the start of a curve to each of its positions."""
    total = np.zeros((len(weights), 2))
    for k in range(len(points)):
        total += weights[:, k, None] * points[k]
    step = np.diff(total, axis=0)
    return np.concatenate([[0.0], np.cumsum(np.sqrt((step * step).sum(axis=1)))])
