"""Autoencoders through the command line: trained on one and two ranks, resumed, evaluated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load

WORDS = ["train", "--model", "autoencoder", "--task", "reconstruction", "--dataset", "digits",
         "--batch-size", "64", "--eval-batch-size", "1000", "--lr", "0.05"]  # fmt: skip


def tensors(out: Path) -> dict[str, bytes]:
    checkpoint = load(max((out / "checkpoints").glob("step-*.h5")))
    return {name: value.tobytes() for name, value in checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main([*WORDS, "--max-steps", "60", "--out", str(out)]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_two_ranks_and_a_resumed_run_end_with_the_same_bits(
    trained: Path, mpirun: Any, tmp_path: Path
) -> None:
    for steps in ("25", "60"):
        words = [*WORDS, "--max-steps", steps, "--out", str(tmp_path), "--resume", "auto"]
        done = mpirun(2, ["-m", "tallygrad.trainer", *words], timeout=200)
        assert done.returncode == 0, done.stderr
    assert tensors(tmp_path) == tensors(trained)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_mae"] == json.loads((trained / "result.json").read_text())["test_mae"]
    assert re.search(rf"test mae {result['test_mae']:.4f}, loss \d", done.stdout)


def test_the_checkpoint_knows_its_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((trained / "result.json").read_text())
    figures = json.loads(said(capsys, "eval", str(trained), "--json"))
    assert figures["mae"] == pytest.approx(result["test_mae"], rel=1e-6) and result["test_mae"] < 1
    assert not {"accuracy", "correct"} & figures.keys()
    assert f"mae        {figures['mae']:.4f}" in said(capsys, "eval", str(trained))
    line = said(capsys, "predict", str(trained), "--samples", "3", "--json")
    (error,) = re.findall(
        r"mae (\d\.\d{4})", said(capsys, "predict", str(trained), "--samples", "3")
    )
    assert json.loads(line)["index"] == 3 and f"{json.loads(line)['mae']:.4f}" == error
    assert main([*WORDS[:3], *WORDS[5:], "--out", str(trained), "--resume", "auto"]) == 0


def test_a_run_goes_on_with_its_own_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS[:3], "--task", "classification", *WORDS[5:], "--resume", "auto"]
    assert main([*words, "--out", str(trained)]) == 2
    assert "--task" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cost", "bill", "inspect"])
def test_what_a_run_costs(command: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["autoencoder", "--training"] if command == "cost" else [str(trained)]
    assert "decoder.2" in said(capsys, command, *words)


@pytest.mark.parametrize(
    ("model", "ranks", "more"),
    [("denoising", 1, []),
     ("vae", 2, ["--schedule", "plateau", "--plateau-patience", "0", "--lr", "0.3"])],
)  # fmt: skip
def test_draws_and_rates_are_the_same_on_any_ranks_and_after_a_resume(
    model: str, ranks: int, more: list[str], mpirun: Any, tmp_path: Path, write_mnist: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = str(write_mnist(tmp_path / "data", 48, 16))
    words = ["train", "--model", model, "--model-args", "hidden=16,code=4", "--task", "reconstruct",
             "--dataset", "mnist", "--data-dir", data, "--batch-size", "16", "--optimizer", "adam",
             "--validation", "16", "--epochs", "4", "--log-every", "1", *more]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*words, "--threads", "2", "--out", str(one)]) == 0
    rates = [json.loads(line).get("lr") for line in (one / "log.jsonl").read_text().splitlines()]
    assert len({*rates}) > 1
    assert main([*words, "--max-steps", "5", "--out", str(two)]) == 0
    rest = [*words, "--max-steps", "0", "--out", str(two), "--resume", "auto"]
    if ranks == 1:
        assert main(rest) == 0
    else:
        done = mpirun(ranks, ["-m", "tallygrad.trainer", *rest, "--compare-every", "1"])
        assert done.returncode == 0, done.stderr
    assert tensors(two) == tensors(one)
    capsys.readouterr()
    figures = [json.loads(said(capsys, "eval", str(one), "--json")) for _ in range(2)]
    assert figures[0] == figures[1]
    assert said(capsys, "predict", str(one)) == said(capsys, "predict", str(one))
