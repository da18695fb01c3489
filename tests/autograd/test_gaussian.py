"""The normal distribution and the error function, against those of Python's math module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import gaussian

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def points(dtype: Any) -> np.ndarray:
    x = np.concatenate([np.linspace(-9, 9, 901), 10.0 ** -np.arange(1, 9, 0.25), [0.0]])
    return np.concatenate([x, -x]).astype(dtype)


@DTYPES
def test_error_function_to_two_units(dtype: Any) -> None:
    x = points(dtype)
    y = gaussian.erf(x)
    expected = np.array([math.erf(v) for v in x.tolist()])
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=2 * np.finfo(dtype).eps)


@DTYPES
def test_tails_keep_their_digits(dtype: Any) -> None:
    x = points(dtype)
    rounding = np.finfo(dtype).eps * (
        8 + 2 * x.astype(float) ** 2
    )  # e^(-x^2) magnifies that of x^2
    far = np.array([math.erfc(v) for v in x.tolist()])
    below = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()])
    for y, expected in ((gaussian.erfc(x), far), (gaussian.cumulative(x)[0], below)):
        assert y.dtype == dtype
        error = np.abs(y - expected)
        assert (error <= rounding * expected + np.finfo(dtype).tiny).all()


@DTYPES
def test_limits(dtype: Any) -> None:
    x = np.array([-np.inf, np.inf, np.nan, -0.0], dtype)
    for function, expected in (
        (gaussian.erf, [-1, 1, np.nan, -0.0]),
        (gaussian.erfc, [2, 0, np.nan, 1]),
        (lambda x: gaussian.cumulative(x)[0], [0, 1, np.nan, 0.5]),
    ):
        np.testing.assert_allclose(function(x), expected, rtol=4 * np.finfo(dtype).eps)
    assert np.signbit(gaussian.erf(x)[3])
