"""The benchmark of int8 beside float32."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest


def test_a_row_has_both_times_and_how_many_times_as_fast_int8_is(
    bench_package: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cases", "lenet5-64", "--rounds", "1", "--backend", "numpy"]
    assert import_module("bench.int8").run(words) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"lenet5-64 +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", line)
    assert found is not None
    exact, ours, ratio, least = map(float, found.groups())
    assert ratio == least == pytest.approx(exact / ours, abs=0.01)
