"""The loop assumes neither loss, metric nor optimizer: an autoencoder trained by an optimizer with
two slots goes through it, resumes included, with nothing but a task and a recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import models, nn
from tallygrad.autograd.array import Array, array
from tallygrad.autograd.nn.flat import FlatParameters
from tallygrad.autograd.ops import elementwise, update
from tallygrad.autograd.optim import Optimizer, ParameterGroup, Run, registry
from tallygrad.datasets import ImageDataset
from tallygrad.trainer.build import loaders
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.cost.cluster.scaling import memory
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.loop import Training
from tallygrad.trainer.setup import Recipe
from tallygrad.trainer.tasks.reconstruction import Reconstruction

SIDE = 6


@dataclass
class TwoSlotsGroup(ParameterGroup):
    """Means of the gradient and of its square, as Adam has them, without correcting their bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mean, self.square = self.slot(), self.slot()

    def own_slots(self) -> dict[str, Array]:
        return {"mean": self.mean, "square": self.square}

    def update(self, run: Run, lr: Array) -> None:
        first, last, *_ = run
        flat = self.flat
        w, g, mean, square = (
            flat.part(whole, first, last)
            for whole in (flat.data, flat.grad, self.mean, self.square)
        )
        rate, least = array(0.1, flat.dtype), array(1e-4, flat.dtype)
        update.running_average(mean, square, g, elementwise.mul(g, g), rate, unbiased=1.0)
        steps = elementwise.div(mean, elementwise.sqrt(elementwise.add(square, least)))
        update.store(w, elementwise.sub(w, elementwise.mul(steps, lr)))


class TwoSlots(Optimizer):
    group = TwoSlotsGroup
    slots = ("mean", "square")


def recipe() -> Recipe:
    def model(data: ImageDataset) -> nn.Module:
        ag.manual_seed(3)
        return models.create("autoencoder", input_shape=data.input_shape, hidden=(), code=12)

    def optimizer(net: nn.Module, flat: FlatParameters, steps: int) -> TwoSlots:
        return TwoSlots(flat, {"lr": 0.03}, net.named_parameters())

    return Recipe(Reconstruction(), model, optimizer)


class Bare(Optimizer):
    """An optimizer without settings besides the learning rate."""

    group = TwoSlotsGroup
    slots = ("mean", "square")

    def __init__(self, params: Any, lr: Any, named_parameters: Any = None) -> None:
        super().__init__(params, {"lr": lr}, named_parameters)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._OPTIMIZERS, "bare", Bare)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"momentum": 0.5}, "--momentum: expected none with --optimizer bare, got 0.5"),
        ({"nesterov": True}, "--nesterov: expected none with --optimizer bare, got True"),
        ({"weight_decay": 0.0}, "--weight-decay: expected none with --optimizer bare, got 0.0"),
    ],
)
def test_options_that_an_optimizer_lacks(option: dict[str, Any], said: str) -> None:
    assert isinstance(Recipe.of(TrainConfig(optimizer="bare")), Recipe)
    with pytest.raises(UserError, match=said):
        Recipe.of(TrainConfig(optimizer="bare", **option))


def test_an_unknown_optimizer_is_refused_before_data_are_loaded() -> None:
    config = TrainConfig(optimizer="sdg", dataset="none")
    with pytest.raises(UserError, match=r"^--optimizer: unknown optimizer 'sdg'"):
        Training(config, SerialComm(), RunFolder(Path("/dev/null"), writes=False))


@pytest.mark.usefixtures("bare")
def test_memory_of_an_optimizer_is_that_of_its_slots() -> None:
    work = count("mlp", 2, (1, 28, 28), 10, training=True, optimizer="bare")
    assert work.slots == 2 and memory(work).momentum == 2 * memory(work).weights
    assert memory(count("mlp", 2, (1, 28, 28), 10, training=True)).momentum == memory(work).weights


def images(split: str) -> ImageDataset:
    """Two patterns with noise."""
    draw = np.random.default_rng(len(split))
    patterns = np.kron([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], np.ones((3, 3)))
    labels = draw.integers(0, 2, 40)
    pixels = 200 * patterns[labels] + draw.integers(0, 40, (40, SIDE, SIDE))
    return ImageDataset("set", split, pixels.astype(np.uint8)[:, None], labels, ("a", "b"),
                   (0.5,), (0.4,))  # fmt: skip


def train(out: Path, backend: str, **options: Any) -> dict[str, Any]:
    config = TrainConfig(
        model="autoencoder", batch_size=8, micro_batches=2, epochs=4, backend=backend, log_every=1,
        checkpoint_every=1, keep_checkpoints=99, out=str(out), **options,
    )  # fmt: skip
    comm = SerialComm()
    data = loaders(config, comm, images("train"), images("test"))
    source = None
    if config.resume:
        source = max((out / "checkpoints").glob("step-*.h5"))
    folder = RunFolder(out, writes=True)
    return Training(config, comm, folder, source, data=data, recipe=recipe()).run()


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_an_autoencoder_learns_and_resumes_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    whole = train(tmp_path / "whole", backend)
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    steps = [event for event in map(json.loads, log) if event["event"] == "step"]
    assert steps[-1]["loss"] < 0.3 * steps[0]["loss"] and steps[-1]["mae"] < 0.7 * steps[0]["mae"]
    assert whole["best_mae"] == whole["test_mae"] < 0.5 and "test_accuracy" not in whole
    head = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_mae", "test_mae", "validation_mae"} <= {*head}

    train(tmp_path / "cut", backend, max_steps=7)
    resumed = train(tmp_path / "cut", backend, resume="auto")
    assert resumed["test_loss"] == whole["test_loss"] and resumed["steps"] == 20
    name = "checkpoints/step-00000020.h5"
    one, two = (load(tmp_path / run / name) for run in ("whole", "cut"))
    assert one.tensors.keys() == two.tensors.keys() >= {
        "model/encoder.0.weight", "optimizer/mean/encoder.0.weight",
        "optimizer/square/decoder.0.bias",
    }  # fmt: skip
    for name, values in one.tensors.items():
        assert values.tobytes() == two.tensors[name].tobytes(), name
    assert one.meta["mae"] == one.meta["test_mae"] == whole["test_mae"]
    assert train(tmp_path / "cut", backend, resume="auto") == resumed  # complete: left as it is


def test_the_error_of_each_sample_is_a_mean_over_its_pixels() -> None:
    task, images = Reconstruction(), ag.zeros(2, 1, 2, 2)
    output = ag.tensor(np.arange(8.0, dtype=np.float32).reshape(2, 1, 2, 2))
    assert task.answers(output, images).numpy().tolist() == [[1.5], [5.5]]
    assert [x.item() for x in task.sums(output, images)] == [7.0]
    assert task.loss(output, images, training=True).item() == sum(i * i for i in range(8)) / 8


class Plain(Reconstruction):
    """Takes new attributes."""


@dataclass
class Loose:
    """Takes other values."""

    smoothing: float = 0.0


@pytest.mark.parametrize("task", [Plain(), Loose()])
def test_a_task_that_could_change_is_refused(task: Any, tmp_path: Path) -> None:
    """A captured step does not look at the attributes of a task again."""
    config, folder = TrainConfig(backend="numpy"), RunFolder(tmp_path, writes=False)
    loose = Recipe(task, recipe().model, recipe().optimizer)
    said = f"task: expected a frozen dataclass, got {type(task).__name__}"
    with pytest.raises(TypeError, match=said):
        Training(config, SerialComm(), folder, recipe=loose)
