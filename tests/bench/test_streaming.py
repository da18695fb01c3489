"""The benchmark of training on a file beside memory."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest


@pytest.mark.slow
def test_both_kinds_train_to_the_same_bits(
    bench_package: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--size", "1MB", "--side", "8", "--model", "mlp", "--steps", "2", "--rounds", "1"]
    assert import_module("bench.streaming").run([*words, "--batch", "16"]) == 0
    *_, memory, file, bits = capsys.readouterr().out.splitlines()
    assert bits == "bits equal after 2 steps"
    for line, kind in ((memory, "memory"), (file, "file")):
        found = re.fullmatch(rf"{kind} +[\d,]+ +([\d.]+)% +[\d,]+ +([\d.]+)% +([\d,]+) .*", line)
        assert found is not None and (kind == "file" or found[1] == found[2] == "100.0")
        assert 20 < float(found[3].replace(",", "")) < 3000
