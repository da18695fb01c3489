"""Tasks by name: from options, from a record, and against a model that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer import build
from tallygrad.trainer.config import CHOICES, TrainConfig
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.setup import assemble
from tallygrad.trainer.tasks import registry
from tallygrad.trainer.tasks.classification import Classification
from tallygrad.trainer.tasks.reconstruction import Reconstruction


def test_the_flag_offers_what_is_registered() -> None:
    assert CHOICES["task"] == registry.names() and TrainConfig().task == registry.DEFAULT


def test_options_of_a_task_are_its_own() -> None:
    options = TrainConfig(label_smoothing=0.1).to_json()
    assert registry.create("classification", options) == Classification(0.1)
    for name in ("reconstruction", "reconstruct"):
        assert registry.create(name, TrainConfig().to_json()) == Reconstruction()
    said = "--label-smoothing: expected none with --task reconstruction, got 0.1"
    with pytest.raises(UserError, match=said):
        registry.create("reconstruction", options)
    with pytest.raises(
        UserError, match="unknown task 'clasification'; did you mean 'classification'"
    ):
        registry.create("clasification")


@pytest.mark.parametrize("config", [{}, {"task": "classification"}, None])
def test_a_record_without_a_task_is_of_classification(config: Any) -> None:
    assert registry.recorded_task(Path("a.h5"), config) == Classification()


@pytest.mark.parametrize("name", ["segmentation", 3, None])
def test_a_record_of_an_unknown_task(name: Any) -> None:
    said = f"^a.h5: task: expected one of classification, reconstruction, got {name!r}$"
    with pytest.raises(UserError, match=said):
        registry.recorded_task(Path("a.h5"), {"task": name})


@pytest.mark.parametrize(
    ("model", "task", "shapes"),
    [("mlp", "reconstruction", (r"\(2, 1, 28, 28\)", r"\(2, 10\)")),
     ("autoencoder", "classification", (r"\(2, 10\)", r"\(2, 1, 28, 28\)"))],
)  # fmt: skip
def test_a_model_that_does_not_fit_its_task(model: str, task: str, shapes: tuple[str, str]) -> None:
    config = TrainConfig(model=model, task=task, dataset="digits", backend="numpy")
    comm = SerialComm()
    said = f"--model: expected a model whose output for 2 samples is {shapes[0]}, got {shapes[1]};"
    with pytest.raises(UserError, match=said):
        assemble(config, comm, build.load_data(config, comm))
