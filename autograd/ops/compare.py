"""Comparisons, which return truth values, and logic on truth values and integers.

None of them has a gradient. Each result counts as one comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import BOOL, is_floating
from ..primitive import Primitive, primitive
from .rules import agreed, broadcast, each, together, truth, whole


def _comparison(function: Callable[[NDArray, NDArray], NDArray], name: str) -> Primitive:
    """Return the primitive of a comparison."""

    def reference(x: NDArray, w: NDArray) -> NDArray:
        # A float64 without axes is rounded to the type of its partner, as in torch.
        floats = is_floating(x.dtype) and is_floating(w.dtype)
        return function(*agreed(x, w)) if floats else function(x, w)

    reference.__name__ = name
    reference.__doc__ = f"y = x {name} w, as truth values."
    return primitive(infer=truth, cost=each(cmp=1))(reference)


eq, ne = _comparison(np.equal, "eq"), _comparison(np.not_equal, "ne")
lt, le = _comparison(np.less, "lt"), _comparison(np.less_equal, "le")
gt, ge = _comparison(np.greater, "gt"), _comparison(np.greater_equal, "ge")


def _bits(x: Spec, w: Spec) -> Spec:
    """Shape rule of bitwise operations of two operands."""
    return whole(broadcast(x, w))


@primitive(infer=_bits, cost=each(cmp=1))
def bit_and(x: NDArray, w: NDArray) -> NDArray:
    """Return x and w, bit by bit for integers."""
    return together(np.bitwise_and, x, w)


@primitive(infer=_bits, cost=each(cmp=1))
def bit_or(x: NDArray, w: NDArray) -> NDArray:
    """Return x or w, bit by bit for integers."""
    return together(np.bitwise_or, x, w)


@primitive(infer=_bits, cost=each(cmp=1))
def bit_xor(x: NDArray, w: NDArray) -> NDArray:
    """Return x exclusive-or w, bit by bit for integers."""
    return together(np.bitwise_xor, x, w)


@primitive(infer=whole, cost=each(cmp=1))
def invert(x: NDArray) -> NDArray:
    """Return not x, bit by bit for integers."""
    return np.invert(x)


@primitive(infer=lambda x, *, low, high: Spec(x.shape, BOOL), cost=each(cmp=2))
def within(x: NDArray, *, low: float | None, high: float | None) -> NDArray:
    """Return whether low <= x <= high; a bound that is None is not tested."""
    above = np.ones(x.shape, bool) if low is None else x >= low
    return above if high is None else above & (x <= high)


@primitive(infer=lambda x, w, **a: truth(x, w), cost=each(cmp=2, mul=1, add=2))
def isclose(x: NDArray, w: NDArray, *, rtol: float, atol: float, equal_nan: bool) -> NDArray:
    """Return where |x - w| <= atol + rtol |w|, or both are equal, or no numbers if `equal_nan`."""
    return np.isclose(x, w, rtol, atol, equal_nan)
