"""`eval` and `predict` with --precision int8, and where int8 is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import Ledger, context, models, no_grad, quantize, zeros
from tallygrad.trainer.cli import main
from tallygrad.trainer.commands.checkpoints import CheckpointOptions
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.inference import Trained, _precision
from tallygrad.trainer.quantized import float_layers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mlp"
    words = ["train", "--model", "mlp", "--dataset", "digits", "--max-steps", "40"]
    assert main([*words, "--validation", "300", "--out", str(out)]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_eval_compares_int8_with_float32(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(trained), "--split", "validation"]
    exact = json.loads(said(capsys, *words, "--json"))
    words += ["--precision", "int8"]
    found: dict[str, Any] = json.loads(said(capsys, *words, "--json"))
    for name in ("accuracy", "loss"):
        assert found[f"float32_{name}"] == exact[name]
        assert found[f"{name}_difference"] == found[name] - exact[name]
    assert 0 < abs(found["loss_difference"]) < 0.02 and abs(found["accuracy_difference"]) < 0.02
    assert found["accuracy"] == found["correct"] / 300 and found["precision"] == "int8"
    assert found["float32_layers"] == []
    text = said(capsys, *words)
    assert f"accuracy_difference {100 * found['accuracy_difference']:+z.2f} points\n" in text
    assert f"accuracy            {100 * found['accuracy']:.2f}%\n" in text
    assert "float32_layers      none\n" in text


@pytest.mark.slow
def test_predict_is_near_what_float32_predicts(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(trained), "--samples", "0-7", "--json"]
    exact, found = (
        [json.loads(line) for line in said(capsys, *words, *more).splitlines()]
        for more in ([], ["--precision", "int8"])
    )
    differences = [a["probability"] - b["probability"] for a, b in zip(exact, found, strict=True)]
    assert 0 < max(map(abs, differences)) < 0.05


def test_activations_are_scaled_for_what_was_trained_on(trained: Path) -> None:
    options = CheckpointOptions(
        checkpoint=str(trained), model="", dataset="", split="validation", data_dir="",
        precision="int8", tta="", threads=0,
    )  # fmt: skip
    found = Trained(options, SerialComm())
    (train,) = found.calibration
    pixels = [{*map(bytes, part.read(np.arange(len(part))))} for part in (train, found.data)]
    assert len(found.data) == 300 and not pixels[0] & pixels[1]


def test_layers_without_integers_are_named() -> None:
    model, x = models.create("lstm", input_shape=(1, 8, 8)), zeros(4, 1, 8, 8)
    with no_grad(), context.using(backend="meta", ledger=Ledger()) as state:
        quantize(model, [x])(x)
    assert float_layers(state.ledger) == ["lstm"]


def test_what_is_computed_in_floating_point() -> None:
    assert _precision("", "bf16", "float32") == _precision("bf16", "float32", "float32") == "bf16"
    assert _precision("int8", "bf16", "float32") == "float32"
    assert _precision("", "float32", "float64") == "float32"
    with pytest.raises(UserError) as error:
        _precision("int8", "float32", "float64")
    assert str(error.value) == "--precision: expected none for a checkpoint in float64, got int8"


def test_training_in_int8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--precision", "int8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--precision" in line and "'int8'" in line and "float32, bf16" in line
