"""Inspection of checkpoints: right numbers, strict JSON, and no MPI or model code loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.commands.inspect import COLUMNS, describe, render, run
from tallygrad.trainer.components.checkpoint import CheckpointFolder, save
from tallygrad.trainer.errors import UserError

pytestmark = pytest.mark.usefixtures("wide")

META: dict[str, Any] = {
    "step": 1200,
    "epoch": 3,
    "accuracy": 0.9375,
    "model": "lenet5",
    "dataset": "mnist",
    "seed": 42,
    "config": {"optimizer": {"lr": 0.1, "name": "sgd"}, "batch": 64},
    "ledger": [{"primitive": "conv2d", "macs": 5}] * 7,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {
        "model/weight": np.array([[0.0, 2.0], [4.0, -6.0]], np.float32),
        "model/odd": np.array([np.nan, np.inf, -np.inf, 1.0, 3.0, 0.0]),
        "model/nothing": np.zeros((0, 3), np.float32),
        "loader/all_nan": np.full(2, np.nan, np.float32),
        "loader/count": np.array(2**63 + 1, np.uint64),
        "loader/flags": np.array([True, False, False]),
    }
    save(tmp_path / "a.h5", tensors, META)
    return tmp_path / "a.h5"


def row(description: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in description["tensors"] if row["name"] == name)


def test_statistics(path: Path) -> None:
    shown = describe(path)
    assert row(shown, "model/weight") == {
        "name": "model/weight", "shape": [2, 2], "dtype": "float32", "bytes": 16,
        "mean": 0.0, "std": 14.0**0.5, "min": -6.0, "max": 4.0, "zeros": 1, "nan": 0, "inf": 0,
    }  # fmt: skip
    odd = row(shown, "model/odd")
    assert (odd["nan"], odd["inf"], odd["zeros"]) == (1, 2, 1)
    assert (odd["min"], odd["max"], odd["mean"]) == (0.0, 3.0, pytest.approx(4 / 3))
    for name in ("model/nothing", "loader/all_nan"):
        assert [row(shown, name)[key] for key in ("mean", "std", "min", "max")] == [None] * 4
    count = row(shown, "loader/count")
    assert (count["shape"], count["min"]) == ([], 2**63 + 1)
    assert row(shown, "loader/flags")["max"] is True
    assert row(shown, "loader/flags")["zeros"] == 2


def test_mean_of_many_floats_is_taken_in_float64(tmp_path: Path) -> None:
    step = 2.0**-23  # between 1 and the next float32, so that the mean is none
    array = np.full(1 << 20, 1.0, np.float32)
    array[::2] += np.float32(step)
    save(tmp_path / "a.h5", {"x": array}, {})
    shown = row(describe(tmp_path / "a.h5"), "x")
    assert shown["mean"] == 1 + step / 2 and shown["std"] == step / 2


def test_overflow_of_statistics_is_null(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", {"x": np.array([1.7e308, 1.7e308, -1.0])}, {})
    assert row(describe(tmp_path / "a.h5"), "x")["mean"] is None
    assert "-" in render(describe(tmp_path / "a.h5"))


def test_totals(path: Path) -> None:
    totals = describe(path)["totals"]
    assert totals["model"] == {"tensors": 3, "values": 10, "bytes": 64}
    assert totals["loader"] == {"tensors": 3, "values": 6, "bytes": 19}
    assert totals["all"] == {"tensors": 6, "values": 16, "bytes": 83}


def test_text_is_an_aligned_table_and_the_record(path: Path) -> None:
    lines = render(describe(path)).splitlines()
    header = next(line for line in lines if line.startswith("name "))
    assert header.split() == [*[column.head for column in COLUMNS], "nan", "inf"]
    weight = next(line for line in lines if line.startswith("model/weight"))
    assert weight.split()[1:] == ["2x2", "float32", "16", "0", "3.742", "-6", "4", "1", "0", "0"]
    for column in ("dtype", "bytes", "max", "zeros"):
        end = header.index(column) + len(column)
        assert weight[end - 1] != " " and weight[end : end + 1] in (" ", "")
    table_end = lines.index("", lines.index(header))
    record = {line.split()[0]: line.split()[1:] for line in lines[table_end:-4] if line}
    assert record["step"] == ["1200"] and record["accuracy"] == ["0.9375"]
    assert record["config.optimizer.lr"] == ["0.1"] and record["model"] == ["lenet5"]
    assert record["ledger"] == ["7", "entries"]
    assert lines[-1].split() == ["all", "6", "16", "83"]


def test_the_metric_of_any_task_comes_first(tmp_path: Path) -> None:
    figures = {"test_loss": 0.3, "test_mae": 0.25, "mae": 0.25, "train_loss": 0.3}
    save(tmp_path / "a.h5", {}, {"dataset": "mnist", "model": "mlp", "step": 3, **figures})
    lines = render(describe(tmp_path / "a.h5")).splitlines()
    first = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in
             ("step", "mae", "model", "dataset", "test_mae")]  # fmt: skip
    assert first == ["step", "mae", "model", "dataset", "test_mae"]


def test_accuracy_and_everything_else_may_be_absent(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", {}, {})
    shown = describe(tmp_path / "a.h5")
    assert shown["meta"] == {} and shown["totals"]["all"]["tensors"] == 0
    assert render(shown).splitlines()[-1].split() == ["all", "0", "0", "0"]


def test_json_is_strict(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    other = tmp_path / "b.h5"
    save(other, {"x": np.array([np.nan])}, {"accuracy": float("nan"), "log": [float("-inf")]})
    for file in (path, other):
        assert run({"file": file, "as_json": True}) == 0
        shown = json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert shown == describe(file)
    assert shown["meta"] == {"accuracy": None, "log": [None]}


def test_nothing_in_a_file_steers_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x07\u202e"
    save(tmp_path / "a.h5", {}, {evil: evil, "model": evil, "config": {evil: [evil]}})
    assert run({"file": tmp_path / "a.h5", "as_json": False}) == 0
    assert all(letter.isprintable() for letter in capsys.readouterr().out.replace("\n", ""))


def test_folder_of_a_run_shows_its_newest(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "other" / "checkpoints"):
        for step in (1, 2, 10):
            CheckpointFolder(folder).save(step, {}, {"step": step})
    assert describe(tmp_path / "run")["meta"]["step"] == 10
    assert describe(tmp_path / "other")["meta"]["step"] == 10
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no valid checkpoint"):
        describe(tmp_path / "empty")
    with pytest.raises(UserError, match="No such file"):
        describe(tmp_path / "absent")


def test_neither_mpi_nor_the_engine_is_loaded(path: Path) -> None:
    code = (
        "import sys; from tallygrad.trainer.cli import main;"
        "assert main(['inspect', sys.argv[1]]) == 0;"
        "bad = [m for m in sys.modules if m.startswith(('mpi4py', 'tallygrad.autograd'))];"
        "assert not bad, bad"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, stdout=subprocess.DEVNULL, timeout=60
    )
