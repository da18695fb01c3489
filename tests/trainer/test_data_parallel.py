"""What a loop of the user's own shares among micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import IndexLoader
from tallygrad.trainer import session
from tallygrad.trainer.distributed.comm import SerialComm


def test_a_hook_reads_the_means_of_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a single micro-batch would differ among ranks, as would an average that a hook makes
    of the model."""
    monkeypatch.setattr(session, "_joined", [SerialComm()])
    ag.manual_seed(0)
    model, x = nn.BatchNorm1d(2), ag.randn(6, 2)
    model, optimizer, train = tg.distribute(
        model, optim.SGD(model.parameters(), lr=0.1), IndexLoader(6, 6), micro_batches=3
    )
    seen: list[Any] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(model.running_mean.numpy().copy()))
    for step in (1, 2):
        for batch in train:
            optimizer.backward((model(x[batch.indices]) ** 2).mean())
            optimizer.step()
        share = 1 - 0.9**step  # of the batch in the statistics, which began with 0
        np.testing.assert_allclose(seen[-1], share * x.numpy().mean(0), rtol=1e-5, atol=1e-7)
    assert len(seen) == 2
