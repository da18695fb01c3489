"""SyncBatchNorm: statistics over ranks in a loop of the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import IndexLoader
from tallygrad.trainer import session
from tallygrad.trainer.cli import main
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError

LOOP = """
import sys
import numpy as np
import tallygrad.autograd as ag, tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import IndexLoader

ag.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).double()
if sys.argv[1] == "sync":
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
x = np.random.default_rng(0).standard_normal((14, 3))
model, optimizer, loader = tg.distribute(
    model, optim.SGD(model.parameters(), 0.1), IndexLoader(14, 5), micro_batches=tg.size()
)
for epoch in range(2):
    for batch in loader:
        optimizer.backward((model(ag.tensor(x[batch.indices])) ** 2).mean())
        optimizer.step()
model.eval()
state = model.state_dict().values()
tg.print([*np.concatenate([v.ravel() for v in state]).tolist(), model(ag.tensor(x)).sum().item()])
"""


def test_the_layer_normalises_over_ranks_in_a_loop_of_the_users(mpirun: Any) -> None:
    found = {}
    for way, ranks in (("sync", 1), ("sync", 2), ("plain", 2)):
        done = mpirun(ranks, LOOP, way, timeout=100)
        assert done.returncode == 0, done.stderr
        found[way, ranks] = np.array(json.loads(done.stdout))
    np.testing.assert_allclose(found["sync", 2], found["sync", 1], rtol=1e-10, atol=1e-12)
    assert np.abs(found["plain", 2] - found["sync", 1]).max() > 1e-3


def test_conversion_keeps_parameters_statistics_and_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2, eps=0.1)))
    before, norm = model.state_dict(), model[1][0]
    x = ag.randn(2, 1, 4, 4)
    expected = model(x).detach().numpy()
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
    layer = model[1][0]
    assert type(layer) is nn.SyncBatchNorm and layer.weight is norm.weight and layer.eps == 0.1
    assert layer.running_mean is norm.running_mean and [*model.state_dict()] == [*before]
    np.testing.assert_array_equal(model(x).detach().numpy(), expected)
    assert nn.SyncBatchNorm(3)(ag.ones(2, 3, 1)).shape == (2, 3, 1)


def test_a_loop_that_would_wait_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_joined", [SerialComm()])
    model = nn.Sequential(nn.Linear(1, 2), nn.SyncBatchNorm(2))
    sgd = optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UserError, match="a micro-batch per rank, 1, for SyncBatchNorm lay"):
        tg.distribute(model, sgd, micro_batches=2)
    *_, loader = tg.distribute(model, sgd, IndexLoader(7, 3))
    assert len(loader.loader.sampler.mine) == 1
    loader.loader.sampler = replace(loader.loader.sampler, micro_batches=2)
    with pytest.raises(UserError, match="a last batch of at least 2 samples, one per rank, got 1"):
        next(iter(loader))


def test_a_command_asks_for_the_option_with_such_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from tallygrad.autograd import nn\n"
        "def net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.SyncBatchNorm(10))\n"
    )
    (tmp_path / "net.py").write_text(code)
    words = ["train", "--model", f"{tmp_path / 'net.py'}:net", "--out", str(tmp_path / "run")]
    assert main([*words, "--dataset", "digits", "--max-steps", "1"]) == 2
    assert "--sync-batch-norm: expected it with the SyncBatchNorm layers" in capsys.readouterr().err
