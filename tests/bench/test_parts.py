"""The benchmark of float32 as sums of bfloat16 parts."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")


@pytest.fixture
def parts(bench_package: Any) -> Any:
    return import_module("bench.parts")


def test_parts_add_up_to_the_number_as_far_as_they_go(parts: Any) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype("f4")
    for count, bits in ((1, 9), (2, 17), (3, 24)):
        found = parts.split(x, count)
        assert all((a.view(np.uint32) & 0xFFFF == 0).all() for a in found)  # of bfloat16
        assert np.abs(sum(found, np.zeros_like(x)) - x).max() <= np.abs(x).max() * 2.0**-bits


def test_more_products_are_more_exact(parts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parts.LAYERS = ((16, 8),)
    assert parts.run(["--backend", "numpy"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == [
        "2, 3", "3, 5", "3, 6", "none: numpy in float32"
    ]  # fmt: skip
    for column in (1, 2):
        three, five, six, plain = (float(row[column].split(" to ")[1].strip("| ")) for row in rows)
        assert three > five > six and plain < 1e-6 and six < 1e-6


def test_windows_are_those_of_a_convolution(parts: Any) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((6, 3, 3, 3))
    ag = import_module("tallygrad.autograd")
    wanted = ag.conv2d(ag.tensor(x), ag.tensor(w), padding=1).numpy()
    found = parts.windows_of(x).reshape(2 * 20, -1) @ w.reshape(6, -1).T
    np.testing.assert_allclose(found, parts.by_places(wanted), atol=1e-12)
