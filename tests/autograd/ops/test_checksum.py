"""Sums of bits."""

from __future__ import annotations

import numpy as np
import pytest

from tallygrad.autograd.array import array
from tallygrad.autograd.ops.reduce import checksum


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_checksum_changes_with_any_bit_and_with_no_order(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    x[0, 0, 0], x[1, 1, 1] = np.inf, np.nan
    whole = int(checksum(array(x)).value)
    assert whole == int(checksum(array(x.transpose(2, 0, 1))).value)
    assert whole == int(checksum(array(np.asfortranarray(x))).value)
    for bit in range(8 * x.itemsize):
        flipped = x.copy()
        flipped.view(f"u{x.itemsize}")[2, 3, 4] ^= np.array(1 << bit, f"u{x.itemsize}")
        assert int(checksum(array(flipped)).value) != whole
