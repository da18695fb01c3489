"""Rosenblatt's perceptron (1958): its rule finds a separating plane after at most (R / margin)^2
mistakes (Novikoff 1962)."""

from __future__ import annotations

import numpy as np
from shared import counted, report

import tallygrad.autograd as ag

MARGIN = 0.1


def main() -> None:
    """Learn to separate 500 points of length R = 1 that keep a margin from a plane."""
    rng = np.random.default_rng(0)
    x, plane = rng.standard_normal((2000, 20)), rng.standard_normal(20)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    height = x @ (plane / np.linalg.norm(plane))
    far = np.flatnonzero(abs(height) >= MARGIN)[:500]
    points, signs = ag.tensor(x[far]), np.sign(height[far])
    w, mistakes, wrong, most = ag.zeros(20, dtype="float64"), 0, 1, 1 / MARGIN**2
    with counted() as training, ag.no_grad():
        while wrong and mistakes <= most:
            wrong = 0
            for point, sign in zip(points, signs, strict=True):
                if sign * (w @ point).item() <= 0:
                    w += sign * point
                    wrong += 1
            mistakes += wrong
    with counted() as answer:
        w @ points[0]
    bound = "mistakes, the most that Novikoff's theorem allows", most
    report("mistakes until none is left", mistakes, (20, 100), bound, training, answer)


if __name__ == "__main__":
    main()
