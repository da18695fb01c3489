"""Non-zero factors of products, for the optional non-zero rule of a primitive's declaration.

The number of MACs whose factors both are non-zero is the same product of indicators, 1 for a number
that is not zero. Its sum over all results splits into sums over each factor alone, so a count takes
a few sums for each tap of a filter. All counts are exact integers. Padding is zero: no non-zero MAC
lies there, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .array import Array, NDArray

Attrs: TypeAlias = dict[str, Any]


class Factor(NamedTuple):
    """One side of a product.

    It has the array that it comes from, an indicator for each of its numbers (True where it is not
    zero), and whether its position makes it a weight."""

    array: Array
    nonzero: NDArray
    weights: bool = False


class CountedProduct(NamedTuple):
    """Both sides of a product, and how many of its MACs have two factors that are not zero."""

    left: Factor
    right: Factor
    macs: int


# rule(args, results, attrs) returns the products of a call.
NonzeroRule: TypeAlias = Callable[[Sequence[Array], Sequence[Array], Attrs], list[CountedProduct]]


def factor(a: Array, weights: bool = False) -> Factor:
    """Return an array as a factor."""
    return Factor(a, a.value != 0, weights)


def rows(a: Array, numbers: NDArray | None = None) -> Factor:
    """Return an array, or numbers derived from it, as a matrix whose columns are those of its last
    axis."""
    nonzero = (a.value if numbers is None else numbers) != 0
    return Factor(a, nonzero.reshape(-1, nonzero.shape[-1]))


def transposed(x: Factor) -> Factor:
    """Return a factor with its last two axes exchanged."""
    return x._replace(nonzero=x.nonzero.swapaxes(-1, -2))


def count_along(nonzero: NDArray, axis: int) -> NDArray:
    """Return how many indicators along an axis are set.

    einsum adds them as small integers, ten times as fast as NumPy's own count."""
    moved = np.moveaxis(nonzero.view(np.uint8), axis, -1)
    return np.asarray(np.einsum("...i->...", moved, dtype=np.uint32)).astype(np.int64)


def matrix_product(left: Factor, right: Factor) -> CountedProduct:
    """Count left (.., rows, k) times right (.., k, columns); stacks broadcast.

    For each k, the non-zero numbers of one side meet those of the other."""
    left_counts, right_counts = count_along(left.nonzero, -2), count_along(right.nonzero, -1)
    return CountedProduct(left, right, int((left_counts * right_counts).sum()))
