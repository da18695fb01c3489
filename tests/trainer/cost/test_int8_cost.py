"""What inference with 8-bit integers costs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallygrad.trainer.cli import main


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["cost", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_macs_and_layers_are_those_of_float32_and_bytes_are_fewer(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exact, found = (report(capsys, name, "--precision", p) for p in ("float32", "int8"))
    plain, ours = (
        {layer["name"]: layer for layer in one["layers"] if layer["weights"]}
        for one in (exact, found)
    )
    assert plain.keys() == ours.keys()
    for key in ("kind", "shape", "weights", "parameters"):
        assert [v[key] for v in plain.values()] == [v[key] for v in ours.values()]
    assert exact["totals"]["inference_macs"] == found["totals"]["inference_macs"]
    assert exact["totals"]["inference_bytes"] > 1.2 * found["totals"]["inference_bytes"]
    assert found["conventions"]["bytes"].startswith("int8 and float32; ")
    if name == "lenet":  # rounding, then the product: x, scale; q, w, scale, bias; q and y
        moved = 4 * 784 + 4 + (784 + 500 + 80 + 80) + 784 + 4 * 11520
        assert ours["conv1"]["bytes_read"] + ours["conv1"]["bytes_written"] == moved


def test_training_in_int8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "lenet", "--training", "--precision", "int8"]) == 2
    said = "--precision: expected float32 or bf16 in training, got int8\n"
    assert capsys.readouterr().err == f"tallygrad: error: {said}"
