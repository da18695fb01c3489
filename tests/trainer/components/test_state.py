"""What checkpoints hold of a training: the same names as ever, so that old ones still load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import nn
from tallygrad.autograd.optim import SGD
from tallygrad.trainer.components import state
from tallygrad.trainer.components.checkpoint import load, save
from tallygrad.trainer.components.state import State
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.update import Update
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.tasks.classification import Classification
from tallygrad.trainer.tasks.task import TaskMetric

# The record and the tensors of a checkpoint of version 0.1, by the names that it had.
FIRST = {
    "step": 7, "epoch": 1, "step_in_epoch": 2, "sums": [3.5, 9.0, 16.0], "seconds": 12.5,
    "aside": 2.25, "images": 56, "best": 0.75, "train_loss": 0.5, "test_loss": 0.625,
    "test_accuracy": 0.75, "evaluated": 5,
}  # fmt: skip
LATER = {
    "closed": [{"epoch": 1}], "restarts": [], "evaluations": 2, "validation_loss": 0.25,
    "validation_accuracy": 0.875, "best_step": 5, "not_better": 1,
    "exchange_exposed": 0.25, "exchange_hidden": 0.5,
}  # fmt: skip
BESIDES = {"accuracy", "model", "dataset", "seed", "ranks", "config", "ledger"}
TENSORS = {
    "model/weight": (2, 3), "model/bias": (2,),
    "optimizer/velocity/weight": (2, 3), "optimizer/velocity/bias": (2,),
    "micro_batches/running_mean": (2, 4),
}  # fmt: skip


LIKELIHOOD = TaskMetric("likelihood", str)


def write(path: Path, record: dict[str, Any], others: Mapping[str, Any] | None = None) -> None:
    tensors = {name: np.full(shape, i + 1.0, np.float32)
               for i, (name, shape) in enumerate(TENSORS.items())}  # fmt: skip
    tensors |= others or {}
    save(path, tensors, {**record, "config": TrainConfig().to_json(), "ledger": []})


def restore(path: Path) -> tuple[State, nn.Linear, SGD]:
    now, model = State(Classification.metrics), nn.Linear(3, 2)
    sgd = SGD(model.parameters(), 0.1, momentum=0.9, named_parameters=model.named_parameters())
    state.restore(path, load(path), TrainConfig(), model, Update(sgd, SerialComm()), now)
    return now, model, sgd


@pytest.mark.parametrize("later", [LATER, {}])
def test_checkpoints_of_before_load(later: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "old.h5", FIRST | later)
    now, model, sgd = restore(tmp_path / "old.h5")
    assert (now.step, now.overhead_seconds, now.sums) == (7, 2.25, [3.5, 9.0, 16.0])
    assert now.finished_epochs == later.get("closed", [])
    assert now.figures["test_accuracy"] == 0.75
    assert now.figures["validation_loss"] == later.get("validation_loss")
    assert now.best_step == later.get("best_step", -1) and now.best == 0.75
    assert (model.weight.numpy() == 1).all() and sgd.steps == 7
    assert (sgd.state_dict()["velocity"]["bias"] == 4).all()
    tensors = load(tmp_path / "old.h5").tensors
    assert state.capture(model, sgd.state_dict(), state.copies(tensors)).keys() == TENSORS.keys()
    record = state.describe(now, TrainConfig(), 1, [])
    assert record.keys() == FIRST.keys() | LATER.keys() | BESIDES
    assert {name: record[name] for name in FIRST | later} == FIRST | later
    assert record["accuracy"] == later.get("validation_accuracy", 0.75)


@pytest.mark.parametrize("missed", [7, 3])
def test_updates_that_a_parameter_missed_are_on_record(tmp_path: Path, missed: int) -> None:
    """The first update is unlike later ones with dampening, any with a correction of bias."""
    write(tmp_path / "old.h5", FIRST)
    now, model, sgd = restore(tmp_path / "old.h5")
    assert "missed" not in sgd.state_dict()
    sgd.load_state_dict({**sgd.state_dict(), "missed": {"bias": missed}})
    record = state.describe(now, TrainConfig(), 1, [])
    save(tmp_path / "new.h5", state.capture(model, sgd.state_dict(), {}), record)
    assert restore(tmp_path / "new.h5")[2].state_dict()["missed"] == {"bias": missed}


def test_a_parameter_that_never_moved_is_read_from_older_checkpoints(tmp_path: Path) -> None:
    write(tmp_path / "old.h5", FIRST, {"optimizer/unmoved/bias": np.zeros(0, bool)})
    assert restore(tmp_path / "old.h5")[2].state_dict()["missed"] == {"bias": 7}


def test_a_best_of_before_is_bettered_only_by_a_better_one(tmp_path: Path) -> None:
    write(tmp_path / "old.h5", FIRST)
    now, *_ = restore(tmp_path / "old.h5")
    now.take_score(0.7)
    assert (now.best, now.best_step, now.not_better) == (0.75, -1, 1)
    now.take_score(0.8)
    assert (now.best, now.best_step, now.not_better) == (0.8, 7, 0)


def test_any_first_score_is_the_best() -> None:
    now = State((LIKELIHOOD,))
    now.take_score(-40.0)
    assert (now.best, now.best_step) == (-40.0, 0)


def test_the_task_says_which_direction_is_better() -> None:
    now = State((TaskMetric("mae", str, higher_is_better=False),))
    for score in (0.5, 0.75, 0.25, 0.3):
        now.step += 1
        now.take_score(score)
    assert (now.best, now.best_step, now.not_better) == (0.25, 3, 1)


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    now = State((LIKELIHOOD,))
    now.take_score(math.nan)
    assert (now.best_step, now.not_better) == (-1, 1)
    now.take_score(-40.0)
    now.take_score(math.nan)
    assert (now.best, now.best_step, now.not_better) == (-40.0, 0, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"aside": "x"}, "aside: expected a number, got 'x'"),
     ({"closed": 3}, "closed: expected list, got 3"),
     ({"step": True}, r"step: expected (a whole number from 0 up|int), got True$"),
     ({"sums": [1.0, 2.0]}, r"sums: expected 3 numbers, got \[1.0, 2.0\]"),
     ({"best": None}, "best: expected a number, got None")],
)  # fmt: skip
def test_a_record_that_does_not_fit_changes_nothing(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "odd.h5", FIRST | LATER | change)
    with pytest.raises(UserError, match=said):
        restore(tmp_path / "odd.h5")
    now = State(Classification.metrics)
    before = now.state_dict()
    with pytest.raises(ValueError, match=said):
        now.load_state_dict(FIRST | LATER | change)
    assert now.state_dict() == before
