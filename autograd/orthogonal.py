"""Matrices made orthogonal by products alone, as steps of Muon are."""

from __future__ import annotations

from math import prod, sqrt
from typing import TypeAlias

import numpy as np

from .array import NDArray
from .dtypes import FLOAT64

Coefficients: TypeAlias = tuple[float, float, float]
COEFFICIENTS: Coefficients = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, by its author


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a parameter as a matrix: a filter is a row."""
    return shape[0], prod(shape[1:])


def norm(x: NDArray) -> float:
    """Return the norm of an array, formed in float64."""
    return sqrt(np.square(x, dtype=FLOAT64).sum())


def orthogonalize(
    x: NDArray, steps: int, eps: float, coefficients: Coefficients = COEFFICIENTS
) -> NDArray:
    """Return a matrix with the singular vectors of x, (a, b), and singular values near 1, between
    about 0.7 and 1.2, by Newton-Schulz iterations with a quintic polynomial."""
    real = x.dtype.type
    a, b, c = map(real, coefficients)
    tall = x.shape[0] > x.shape[1]
    x = np.ascontiguousarray(x.T if tall else x)
    x = x / real(max(norm(x), eps))
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x
