"""Winograd's transforms: short correlations as products of polynomials' values.

F(m, r) computes m neighbouring results of r taps from m + r - 1 numbers with as many products
(Lavin and Gray 2016): y = A^T [(G w) . (B^T x)]. All three matrices follow from the points at which
polynomials are evaluated: infinity is one, the others come in opposite pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from ..compiler.language import KernelBuilder
from ..compiler.vectors import Vector

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
Grid: TypeAlias = Sequence[Sequence[Vector]]
Transform: TypeAlias = Callable[[KernelBuilder, Matrix, Sequence[Vector]], list[Vector]]

# The numbers that a tile sees to its finite points. 3/4 and 3/2 round a quarter as much as 1 and 2,
# and their powers are exact.
POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, 0.75, -0.75, 1.5, -1.5)}


def values(size: int, count: int, scaled: bool = False) -> Matrix:
    """Return the matrix that evaluates a polynomial of `count` coefficients at `size` points, the
    last one infinity: A for count = m, and `scaled`, G for count = r."""
    points = POINTS[size]
    rows = []
    for p in points:
        others = float(np.prod([p - q for q in points if q != p])) if scaled else 1.0
        rows.append(tuple(p**i / others for i in range(count)))
    return (*rows, (0.0,) * (count - 1) + (1.0,))


def images(size: int) -> Matrix:
    """Return B^T: the coefficients of the product of all x - q but for the row's own point."""
    points = POINTS[size]
    rows = []
    for p in (*points, None):
        polynomial = [1.0]
        for q in (q for q in points if q != p):
            shifted = [0.0, *polynomial]
            lower = [-q * a for a in polynomial] + [0.0]
            polynomial = [a + b for a, b in zip(shifted, lower, strict=True)]
        rows.append(tuple(polynomial + [0.0] * (size - len(polynomial))))
    return tuple(rows)


def witnesses(matrix: Matrix) -> tuple[int, int]:
    """Return two columns of which one is not zero in each row: of the results of `interpolate`,
    these two are not finite as soon as any term is not."""
    return next(
        (a, b)
        for a, b in combinations(range(len(matrix[0])), 2)
        if all(row[a] or row[b] for row in matrix)
    )


def _combined(
    k: KernelBuilder, factors: Sequence[float], terms: Sequence[Vector]
) -> tuple[float, Vector] | None:
    """Return a scale and a vector whose product is the sum of the terms times their factors; None
    where all factors are zero."""
    used = [(f, t) for f, t in zip(factors, terms, strict=True) if f]
    if not used:
        return None
    # A factor of one saves a product.
    scale = min((f for f, _ in used), key=lambda f: (abs(f) != 1, abs(f), -f))
    (_, total), *others = sorted(used, key=lambda pair: pair[0] != scale)
    for factor, term in others:
        ratio = factor / scale
        if abs(ratio) == 1:
            total = total + term if ratio > 0 else total - term
        else:
            total = k.fma(ratio, term, total)
    return scale, total


def _scaled(part: tuple[float, Vector]) -> Vector:
    return part[1] if part[0] == 1 else part[0] * part[1]


def _mirrored(row: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two rows belong to opposite points."""
    pairs = list(zip(row, other, strict=True))
    return row != other and all(abs(a) == abs(b) for a, b in pairs)


def evaluate(k: KernelBuilder, matrix: Matrix, terms: Sequence[Vector]) -> list[Vector]:
    """Return matrix x terms, for B^T, A and G: rows of opposite points share their even and odd
    parts."""
    result: list[Vector] = []
    while len(result) < len(matrix):
        row, *rest = matrix[len(result) :]
        if not rest or not _mirrored(row, rest[0]):
            whole = _combined(k, row, terms)
            assert whole is not None
            result.append(_scaled(whole))
            continue
        # Opposite points differ in odd powers only: even + odd and even - odd.
        same = [a if a == b else 0.0 for a, b in zip(row, rest[0], strict=True)]
        odd = _combined(k, [a - b for a, b in zip(row, same, strict=True)], terms)
        even = _combined(k, same, terms)
        assert odd is not None and even is not None
        first = _scaled(even)
        if abs(odd[0]) == 1:
            pair = [first + odd[1], first - odd[1]]
            result += pair if odd[0] > 0 else pair[::-1]
        else:
            result += [k.fma(odd[0], odd[1], first), k.fma(-odd[0], odd[1], first)]
    return result


def interpolate(k: KernelBuilder, matrix: Matrix, terms: Sequence[Vector]) -> list[Vector]:
    """Return the transpose of a matrix x terms, for A^T and G^T: terms of opposite points are
    added and subtracted first."""
    rows, folded = list(zip(*matrix, strict=True)), list(terms)
    sums, differences = list(terms), list(terms)
    pairs = [i for i in range(1, len(terms) - 2, 2) if _mirrored(matrix[i], matrix[i + 1])]
    for i in pairs:
        sums[i], differences[i] = terms[i] + terms[i + 1], terms[i] - terms[i + 1]
    result = []
    for row in rows:
        factors = list(row)
        for i in pairs:
            folded[i] = sums[i] if row[i] == row[i + 1] else differences[i]
            factors[i + 1] = 0.0
        whole = _combined(k, factors, folded)
        assert whole is not None
        result.append(_scaled(whole))
    return result


def both(k: KernelBuilder, transform: Transform, matrix: Matrix, grid: Grid) -> Grid:
    """Transform the columns of a grid, then its rows."""
    columns = [transform(k, matrix, column) for column in zip(*grid, strict=True)]
    return [transform(k, matrix, row) for row in zip(*columns, strict=True)]


class _Tally:
    """Stands for a kernel and its vectors, and counts the multiplications of a transform."""

    def __init__(self) -> None:
        self.count = 0

    def fma(self, a: float, b: _Tally, c: _Tally) -> _Tally:
        """Count one multiplication."""
        self.count += 1
        return self

    def __rmul__(self, factor: float) -> _Tally:
        self.count += 1
        return self

    def __add__(self, other: _Tally) -> _Tally:
        return self

    __sub__ = __add__


@cache
def price(transform: Transform, matrix: Matrix, size: int) -> int:
    """Return how many multiplications it takes to transform a grid of size x size numbers."""
    tally: Any = _Tally()
    both(tally, transform, matrix, [[tally] * size] * size)
    return int(tally.count)
