"""Learning rates that fall on plateaus of the validation set, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.autograd.optim.schedules import ReduceLROnPlateau, Warmup
from tallygrad.datasets import ImageDataset
from tallygrad.trainer import cli
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.plateaus import Plateaus
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.update import Update
from tallygrad.trainer.errors import UserError

Words = Callable[..., list[str]]
FALLING = ("--lr", "0.5", "--plateau-factor", "0.25", "--plateau-patience", "0")


@pytest.fixture
def words(tmp_path: Path, write_mnist: Any) -> Words:
    write_mnist(tmp_path / "data", 24, 6)
    fixed = [
        "train", "--model", "mlp", "--model-args", "hidden=8", "--dataset", "mnist", "--data-dir",
        str(tmp_path / "data"), "--batch-size", "8", "--backend", "numpy", "--epochs", "4",
        "--log-every", "1", "--validation", "8", "--schedule", "plateau",
    ]  # fmt: skip
    return lambda out, *more: [*fixed, "--out", str(tmp_path / out), *more]


def rates(out: Path) -> list[float]:
    events = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [event["lr"] for event in events if event["event"] == "step"]


def tensors(out: Path) -> dict[str, bytes]:
    found = load(max((out / "checkpoints").glob("step-*.h5"))).tensors
    return {name: value.tobytes() for name, value in found.items()}


def test_the_rate_falls_after_more_evaluations_than_patience(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps an epoch that are too small to change the accuracy."""
    settings = ("--plateau-metric", "accuracy", "--plateau-factor", "0.5", "--lr", "1e-6")
    settings += ("--momentum", "0")
    assert cli.main(words("one", *settings, "--plateau-patience", "1", "--warmup-steps", "1")) == 0
    assert [1e6 * rate for rate in rates(tmp_path / "one")] == pytest.approx(
        [0.5, *[1] * 5, 0.5, 0.5]
    )
    said = "validation accuracy has not become better: learning rate 5e-07"
    assert said in capsys.readouterr().err.splitlines()
    assert cli.main(words("two", *settings, "--plateau-patience", "0", "--eval-every", "2")) == 0
    assert [1e6 * rate for rate in rates(tmp_path / "two")] == pytest.approx([1] * 8)
    schedule = load(max((tmp_path / "two" / "checkpoints").glob("step-*.h5"))).tensors
    assert schedule["optimizer/schedules/0/lr"] == 5e-7  # of the evaluations after 2 and 4 epochs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), [1, 1, 0.5, 0.25]),
        (("--plateau-min-lr", "4e-7"), [1, 1, 0.5, 0.4]),
        (("--plateau-cooldown", "1"), [1, 1, 0.5, 0.5]),
        (("--plateau-metric", "loss", "--plateau-threshold", "0"), [1, 1, 1, 1]),
        (("--plateau-metric", "loss", "--plateau-threshold", "0.9"), [1, 1, 0.5, 0.25]),
    ],
)
def test_settings_of_plateaus(
    words: Words, tmp_path: Path, settings: tuple[str, ...], expected: list[float]
) -> None:
    """Steps too small to change the accuracy, which lower the loss."""
    fixed = ("--plateau-metric", "accuracy", "--plateau-factor", "0.5", "--plateau-patience", "0")
    assert cli.main(words("run", *fixed, "--lr", "1e-6", *settings)) == 0
    assert [1e6 * rate for rate in rates(tmp_path / "run")[::2]] == pytest.approx(expected)


@pytest.mark.parametrize("more", [[], ["--local-steps", "1"], ["--shard-optimizer"]])
def test_a_resumed_run_has_the_same_bits(more: list[str], words: Words, tmp_path: Path) -> None:
    assert cli.main(words("whole", *FALLING, *more)) == 0
    assert len({*rates(tmp_path / "whole")}) > 1
    for steps in ("3", "4", "5", "0"):  # amid an epoch, and at its end
        again = ("--resume", "auto", "--max-steps", steps)
        assert cli.main(words("cut", *FALLING, *more, *again)) == 0
    assert tensors(tmp_path / "cut") == tensors(tmp_path / "whole")
    assert rates(tmp_path / "cut") == rates(tmp_path / "whole")


def test_a_new_rate_holds(words: Words, tmp_path: Path) -> None:
    assert cli.main(words("run", *FALLING, "--max-steps", "6")) == 0
    again = ("--resume", "auto", "--max-steps", "7", "--lr", "0.0625")
    assert cli.main(words("run", *again)) == 0
    assert rates(tmp_path / "run")[-1] == 0.0625


def test_a_script_brings_a_schedule() -> None:
    draw = np.random.default_rng(0)

    def data(split: str) -> ImageDataset:
        images = draw.integers(0, 256, (8, 1, 4, 4)).astype(np.uint8)
        return ImageDataset("set", split, images, np.arange(8) % 2, ("a", "b"), (0.5,), (0.3,))

    def optimizer(model: nn.Module, flat: nn.FlatParameters, steps: int) -> optim.SGD:
        never = {"patience": 0, "threshold": 9.0}  # is a value better
        return optim.SGD(flat, lr=ReduceLROnPlateau(0.01, factor=0.5, **never))

    train, test, validation = map(data, ("train", "test", "validation"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    history = tg.fit(net, train, test, validation=validation, optimizer=optimizer, epochs=4,
                     batch_size=8)  # fmt: skip
    assert history["lr"] == [0.01, 0.005, 0.0025, 0.00125]


def plateaus(*rates: float) -> Plateaus:
    layers = [nn.Linear(2, 2) for _ in rates]
    groups = [{"params": layer.parameters(), "lr": Warmup(ReduceLROnPlateau(rate, patience=0), 1)}
              for layer, rate in zip(layers, rates, strict=True)]  # fmt: skip
    return Plateaus(Update(optim.SGD(groups, lr=0.1), SerialComm()), "loss", "validation")


def test_each_group_has_a_schedule_of_its_own() -> None:
    made, other = plateaus(0.1, 0.2), plateaus(0.1, 0.2)
    assert made.observe({"validation_loss": 1.0}) == ""
    said = "validation loss has not become better: learning rate 0.01, 0.02"
    assert made.observe({"validation_loss": 2.0}) == said
    other.load(Path("a.h5"), made.state_dict())
    assert other.state_dict() == made.state_dict() != plateaus(0.1, 0.2).state_dict()
    other.load(Path("a.h5"), {})
    assert other.state_dict() == made.state_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"0/lr": np.float64("nan")}, "expected a rate of at least 0, got nan"),
     ({"0/best": np.zeros(2)}, "only"), ({"1/begun": None}, "float")],
)  # fmt: skip
def test_what_is_no_state_is_refused(change: dict[str, Any], said: str) -> None:
    made = plateaus(0.1, 0.2)
    with pytest.raises(UserError, match=f"^a.h5: schedule: cannot be resumed from: .*{said}"):
        made.load(Path("a.h5"), made.state_dict() | change)
