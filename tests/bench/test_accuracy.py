"""The study of accuracy: what it trains, and what it makes of the results."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def accuracy(bench_package: Any) -> Any:
    return import_module("bench.accuracy")


def test_each_seed_is_trained_in_both_precisions(
    accuracy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def train(command: list[str], **_: Any) -> None:
        commands.append(command)
        out, seed = (command[command.index(name) + 1] for name in ("--out", "--seed"))
        result = {"test_accuracy": 0.9 - 0.01 * int(seed) + 0.002 * ("bf16" in command)}
        Path(out, "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(subprocess, "run", train)
    assert accuracy.run(["--seeds", "2", "--", "--model", "mlp", "--lr", "0.1"]) == 0
    chosen = [[c[c.index(name) + 1] for name in ("--seed", "--precision")] for c in commands]
    assert chosen == [["0", "float32"], ["0", "bf16"], ["1", "float32"], ["1", "bf16"]]
    assert all(c[3:8] == ["train", "--model", "mlp", "--lr", "0.1"] for c in commands)
    assert capsys.readouterr().out.splitlines() == [
        "seed 0: float32 90.00, bf16 90.20",
        "seed 1: float32 89.00, bf16 89.20",
        "float32: mean 89.50, standard error 0.50",
        "bf16: mean 89.70, standard error 0.50",
        "difference +0.20, standard error 0.00: above 0.15 points and two standard errors",
    ]


def test_a_training_that_fails_ends_the_study(
    accuracy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(3, command)

    monkeypatch.setattr(subprocess, "run", fail)
    assert accuracy.run(["--seeds", "2", "--", "--model", "mlp"]) == 3


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, -0.1, 0.1], "within 0.15 points and two standard errors"),
        ([-0.1, -0.1, -0.12], "above two standard errors"),
        ([1.0, -0.2, 0.1], "above 0.15 points"),
    ],
)
def test_the_error_of_a_difference_is_that_of_pairs(
    accuracy: Any, differences: list[float], verdict: str
) -> None:
    plain = [90.0, 80.0, 85.0]
    text = accuracy.report(plain, [a + d for a, d in zip(plain, differences, strict=True)])
    assert text.splitlines()[0] == "float32: mean 85.00, standard error 2.89"
    assert text.endswith(f": {verdict}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--seeds: expected at least 2, got 1"),
        (["--", "--task", "x"], "--task: expected none, as the benchmark sets it, got --task"),
        (["--", "--seed=3"], "--seed: expected none, as the benchmark sets it, got --seed=3"),
    ],
)
def test_options_that_do_not_fit_end_in_one_line(
    accuracy: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        accuracy.run(words)
    assert capsys.readouterr().err == f"python -m bench accuracy: {message}\n"


@pytest.mark.slow
def test_the_trainer_does_the_work() -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["--model", "mlp", "--dataset", "digits", "--max-steps", "2", "--backend", "numpy"]
    command = [sys.executable, "-m", "bench", "accuracy", "--seeds", "2", "--", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    seeds, means = answer.stdout.splitlines()[:2], answer.stdout.splitlines()[2:]
    assert [line.split(":")[0] for line in seeds] == ["seed 0", "seed 1"]
    assert seeds[0].split()[2:] != seeds[1].split()[2:] and means[2].startswith("difference ")
    failed = subprocess.run([*command, "--lr", "no"], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2 and "--lr" in failed.stderr.splitlines()[-1]
