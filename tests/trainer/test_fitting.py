"""What `fit` and `save` refuse, and checkpoints of a fit in a script."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import ImageDataset, Loader
from tallygrad.trainer import session
from tallygrad.trainer.distributed.comm import SerialComm


@pytest.fixture
def alone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the only rank."""
    monkeypatch.setattr(session, "_joined", [SerialComm()])


def images(count: int) -> ImageDataset:
    pixels, labels = np.zeros((count, 1, 4, 4), np.uint8), np.arange(count) % 3
    return ImageDataset("blank", "train", pixels, labels, ("a", "b", "c"), (0.5,), (0.25,))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda m, d: tg.fit(m, d, d, epoch=2), "fit: unknown option 'epoch'; did you mean 'epochs'?"),
    (lambda m, d: tg.fit("lenet", d, d), "fit: model: expected a Module, or a class or"),
    (lambda m, d: tg.fit(m, Loader(d, 6), d), "fit: train: expected a data set, such as datasets."),
    (lambda m, d: tg.fit(m, d, "digits"), "such as datasets.load() returns, got str"),
])  # fmt: skip
def test_what_a_fit_cannot_take_is_named(
    alone_here: None, wrong: Callable[..., object], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        wrong(linear(), images(12))


def test_values_that_a_checkpoint_cannot_hold_are_named(alone_here: None, tmp_path: Path) -> None:
    model = linear()
    model, optimizer = tg.distribute(model, optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match=r"save: best: expected numbers, texts, .* got Tensor"):
        tg.save(tmp_path / "net.h5", model, optimizer, epoch=1, best=ag.zeros(2))
    assert not (tmp_path / "net.h5").exists()


def test_a_model_loads_a_checkpoint_of_a_fit(tmp_path: Path, alone_here: None) -> None:
    trained, loaded, data = linear(), linear(), images(12)
    tg.fit(trained, data, data, batch_size=6, backend="numpy", out=str(tmp_path / "run"))
    assert tg.load(tmp_path / "run" / "checkpoints" / "step-00000002.h5", loaded) == {}
    np.testing.assert_array_equal(loaded[1].weight.numpy(), trained[1].weight.numpy())
