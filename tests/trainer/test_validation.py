"""Validation sets: what they hold, what they choose, and that the test set has no part in it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.datasets import DataError, ImageDataset, Subset, hold_out
from tallygrad.trainer import config, values
from tallygrad.trainer.cli import main
from tallygrad.trainer.components import record
from tallygrad.trainer.components.checkpoint import load, save

WORDS = ["train", "--model", "mlp", "--batch-size", "16", "--backend", "numpy", "--lr", "0.05"]


def numbered(count: int) -> ImageDataset:
    """Samples whose label is their number."""
    images = np.zeros((count, 1, 2, 2), np.uint8)
    labels = np.arange(count, dtype=np.int64)
    return ImageDataset("set", "train", images, labels, ("a",), (0.0,), (1.0,))


def test_two_parts_make_the_whole_and_keep_their_order() -> None:
    whole = numbered(100)
    kept, held = hold_out(whole, 30, seed=1)
    assert (kept.split, held.split, len(kept), len(held)) == ("train", "validation", 70, 30)
    assert sorted([*kept.labels, *held.labels]) == [*range(100)]
    assert (np.diff(kept.labels) > 0).all() and (np.diff(held.labels) > 0).all()
    assert held.labels.max() - held.labels.min() > 40  # drawn from all of it, not cut off


def test_a_subset_has_the_split_of_its_source_and_only_samples_that_are_there() -> None:
    whole = numbered(10)
    part = Subset(whole, range(2, 5))
    assert part.split == "train" and [*part.labels] == [2, 3, 4]
    assert part.read(np.array([1])).shape == (1, 2, 2, 1)
    for wrong, got in ([0, 10], "9, got 10"), ([-1], "9, got -1"), ([0.5], "numbers, got float64"):
        with pytest.raises(DataError, match=got):
            Subset(whole, wrong)


def test_the_seed_alone_chooses() -> None:
    chosen = [tuple(hold_out(numbered(100), 30, seed)[1].labels) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("count", [0, -1, 100, 101])
def test_neither_part_may_be_empty(count: int) -> None:
    with pytest.raises(DataError, match=f"expected 1 to 99 of the 100 samples .*, got {count}"):
        hold_out(numbered(100), count)


@pytest.mark.parametrize(
    ("text", "part"), [("0", 0), ("5000", 5000), ("0.1", 0.1), ("10%", 0.1), ("1", 1), ("0%", 0)]
)
def test_numbers_and_shares(text: str, part: float) -> None:
    assert values.parse_part(text) == part


@pytest.mark.parametrize(
    "text", ["-1", "1.5", "nan", "inf", "100%", "150%", "x", "", "%", "1e99", "1.0", "2.0", "5e3"]
)
def test_neither_number_nor_share(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_part(text)


def test_a_file_may_give_a_number(tmp_path: Path) -> None:
    for text, value in (("5000", "5000"), ("0.1", "0.1"), ("'10%'", "10%")):
        (tmp_path / "o.toml").write_text(f"validation = {text}\n")
        assert config.gather(str(tmp_path / "o.toml"), {}) == {"validation": value}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_mnist: Any) -> Path:
    folder: Path = write_mnist(tmp_path_factory.mktemp("data") / "mnist", 200, 40)
    return folder


def train(data: Path, out: Path, *words: str, status: int = 0) -> dict[str, Any]:
    given = [*WORDS, "--dataset", "mnist", "--data-dir", str(data), "--out", str(out), *words]
    with pytest.raises(SystemExit) as end:
        sys.exit(main(given))
    assert end.value.code == status
    path = out / "result.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def epochs(out: Path) -> list[dict[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "epoch"]


def evaluated(run: Path, split: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", str(run), "--split", split, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_validation_chooses_and_test_tells_of_the_best(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    # Labels are random, so accuracy comes and goes and the best is not the last.
    result = train(data, out, "--validation", "0.25", "--epochs", "8", "--seed", "3")
    said = capsys.readouterr().out
    told = epochs(out)
    assert all("test_loss" not in event for event in told)
    best = max(told, key=lambda event: event["validation_accuracy"])
    assert result["best_step"] == best["step"] < result["steps"] == 8 * 10
    assert result["best_accuracy"] == best["validation_accuracy"]
    held = load(out / "checkpoints" / "best.h5").meta
    assert held["step"] == best["step"] and held["accuracy"] == best["validation_accuracy"]
    assert evaluated(out, "validation", capsys)["accuracy"] == result["best_accuracy"]
    assert evaluated(out, "validation", capsys)["samples"] == 50
    assert evaluated(out, "test", capsys)["accuracy"] == result["best_test_accuracy"]
    last = str(out / "checkpoints" / "step-00000080.h5")
    capsys.readouterr()
    assert main(["eval", last, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["test_accuracy"]
    assert f"best          step {best['step']}, validation accuracy" in said
    assert f"test accuracy {result['best_test_accuracy']:.2%}" in said


def test_a_best_of_another_model_is_not_tested(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "load_checkpoint", lambda path: replace(load(path), tensors={}))
    words = ["--validation", "0.25", "--epochs", "8", "--seed", "3"]
    result = train(data, tmp_path / "run", *words)
    assert result["best_step"] < result["steps"] and result["best_test_accuracy"] is None
    assert "the best is not tested" in " ".join(capsys.readouterr().err.split())


def test_a_best_chosen_on_the_test_set_is_told_as_such(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(data, tmp_path / "run", "--epochs", "8", "--seed", "3")
    said = capsys.readouterr().out
    assert result["best_step"] < result["steps"] and "validation_accuracy" not in result
    assert "chosen on the test set" in said and "--validation 5000" in said
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["eval", str(tmp_path / "run"), "--split", "validation"]))
    assert end.value.code == 2
    assert "was trained without --validation" in capsys.readouterr().err


def test_patience_ends_a_run_that_gets_no_better(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--validation", "50", "--epochs", "40", "--patience", "2", "--lr", "0.0"]
    result = train(data, out, *words)
    # Without a learning rate no evaluation betters the first; two more are waited for.
    assert (result["epochs"], result["best_step"]) == (3, 10) and len(epochs(out)) == 3
    again = train(data, out, *words, "--resume", "auto")
    assert again == result and len(epochs(out)) == 3


def test_a_run_goes_on_with_the_validation_set_it_had(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--validation", "50", "--epochs", "4", "--seed", "3"]
    whole = train(data, tmp_path / "whole", *words)
    train(data, tmp_path / "cut", *words, "--max-steps", "15")
    resumed = train(data, tmp_path / "cut", "--resume", "auto")
    same = ("test_loss", "validation_accuracy", "best_step", "best_accuracy", "best_test_accuracy")
    assert [resumed[name] for name in same] == [whole[name] for name in same]
    train(data, tmp_path / "cut", "--resume", "auto", "--validation", "60", status=2)
    assert "--validation: expected 50 as in" in capsys.readouterr().err


def test_checkpoints_of_before_validation_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(data, out, "--epochs", "2", "--max-steps", "13")
    newest = max((out / "checkpoints").glob("step-*.h5"))
    held = load(newest)
    later = ("validation_loss", "validation_accuracy", "best_step", "not_better")
    meta = {name: value for name, value in held.meta.items() if name not in later}
    for option in ("validation", "patience"):
        del meta["config"][option]
    save(newest, held.tensors, meta)
    assert train(data, out, "--resume", "auto")["steps"] == 2 * 13


def test_ranks_hold_out_the_same(data: Path, tmp_path: Path, mpirun: Any) -> None:
    words = ["--dataset", "mnist", "--data-dir", str(data), "--validation", "50", "--epochs", "3"]
    results = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        done = mpirun(ranks, ["-m", "tallygrad.trainer", *WORDS, *words, "--out", str(out)])
        assert done.returncode == 0, done.stderr
        result = json.loads((out / "result.json").read_text())
        same = ("test_loss", "validation_accuracy", "best_step", "best_test_accuracy")
        results.append([result[name] for name in same])
    assert results[0] == results[1]
