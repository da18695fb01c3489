"""Terms that a model adds to the loss: in training, in evaluation and in what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import models, nn
from tallygrad.datasets import ImageDataset
from tallygrad.trainer import build
from tallygrad.trainer.calibration import kernels
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.tasks.reconstruction import Reconstruction

SHAPE, SWEPT = (1, 4, 4), ("forward", "backward_data", "backward_weights")
SMALL = {"hidden": 3, "code": 2}


class Penalised(nn.Module):
    """Adds a number to the loss of its task."""

    def __init__(self, term: float) -> None:
        ag.manual_seed(0)
        self.layer, self.term = nn.Linear(16, 16), nn.Parameter(ag.tensor(term, dtype="float32"))

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        y = self.layer(x.flatten(1)).reshape(x.shape)
        ag.add_loss(self.term * 1.0)
        return y


def data(split: str) -> ImageDataset:
    images = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype(np.uint8)
    return ImageDataset("set", split, images, np.arange(8) % 2, ("a", "b"), (0.5,), (0.3,))


def fit(model: nn.Module, **options: Any) -> tg.History:
    common = {"task": "reconstruct", "batch_size": 8, "backend": "numpy"}
    return tg.fit(model, data("train"), data("test"), **common, **options)


def test_losses_have_the_terms() -> None:
    plain, more = (fit(Penalised(term), lr=0.0) for term in (0.0, 5.0))
    for name in ("train_loss", "test_loss"):
        assert more[name] == pytest.approx([x + 5 for x in plain[name]])
    assert more["test_mae"] == plain["test_mae"]


def test_parameters_of_terms_are_known_before_training() -> None:
    """The gradient of the one that is read last is final first."""
    model = Penalised(1.0)
    flat = build.flatten_parameters(model, Reconstruction(), data("train"), "float32")
    assert flat.parameters[0] is model.term


def test_a_training_does_the_work_that_is_known_from_shapes(tmp_path: Path) -> None:
    """Two micro-batches of four."""
    fit(models.create("vae", input_shape=SHAPE, **SMALL), out=str(tmp_path / "run"))
    rows = json.loads((tmp_path / "run" / "ledger.json").read_text())
    work = count("vae", 4, SHAPE, 0, training=True, **SMALL)
    done, known = (
        {key[:3]: np.array(cost) for key, cost in ledger.sums(tuple).items() if key[1] in SWEPT}
        for ledger in (ag.Ledger.from_json(rows), work.ledger)
    )
    assert done.keys() == known.keys() and known
    assert all((done[key] == 2 * known[key]).all() for key in known)


def test_a_profile_has_the_work_that_is_known_from_shapes() -> None:
    rows, _ = kernels.measure("vae", 2, SHAPE, 0, True, "numpy", 1)
    known = count("vae", 2, SHAPE, 0, training=True).ledger.total()
    assert sum(row.cost.bytes_read for row in rows) == known.bytes_read
