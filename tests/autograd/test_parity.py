"""How far apart a sample's results and gradients are from torch's."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from tallygrad.autograd.testing import Sample, samples
from tallygrad.autograd.testing.parity import differences

ROWS = {row.name: row for row in samples("activation")}


def apart(row: Sample) -> tuple[float, float]:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return differences(row, torch, "float64", "numpy")


@pytest.mark.parity
def test_differences_are_found() -> None:
    row = ROWS["tanh"]
    assert row.torch is not None
    original = row.torch

    def other(change: Any) -> tuple[float, float]:
        return apart(replace(row, torch=lambda t, x: change(t, x, original(t, x))))

    assert max(other(lambda t, x, y: y)) < 1e-14
    assert (
        other(lambda t, x, y: y + 0.5)[0] == pytest.approx(0.5)
        and other(lambda t, x, y: y + 0.5)[1] < 1e-14
    )
    assert other(lambda t, x, y: y + 0.25 * x)[1] == pytest.approx(0.25)
    assert other(lambda t, x, y: y * inf)[0] == inf and other(lambda t, x, y: y[:1])[0] == inf
    large = replace(row, function=lambda x: x * 0 + 1001, torch=lambda t, x: x * 0 + 1000)
    assert apart(large) == (pytest.approx(0.001), 0)
