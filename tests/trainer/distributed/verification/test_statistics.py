"""Running statistics as one array, and those of another rank computed in their place."""

from __future__ import annotations

from typing import Any

import numpy as np

from tallygrad.autograd import nn
from tallygrad.trainer.distributed.buffers import MicroBatchBuffers
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.verification.statistics import Guest, Statistics


class Ring(SerialComm):
    """A rank of two that sends nothing and receives what is prepared."""

    size = 2

    def __init__(self, received: Any) -> None:
        super().__init__()
        self.received, self.sent = received, np.zeros(0)

    def sendrecv(self, array: Any, out: Any, other: int, source: int | None = None) -> None:
        assert (other, source) == (1, 1)
        self.sent = array.copy()
        out.reshape(-1)[...] = self.received


def statistics(parts: int, model: nn.Module | None = None) -> Statistics:
    """Return those of a rank with so many micro-batches of more."""
    buffers = MicroBatchBuffers(
        model or nn.BatchNorm2d(3), Reducer(SerialComm()), range(parts), parts + 2
    )
    buffers.spread()
    return Statistics(buffers)


def values(of: Statistics) -> list[list[Any]]:
    return [[copy.value.tolist() for copy in copies] for copies in of.buffers.copies]


def test_all_micro_batches_are_one_array() -> None:
    found = statistics(2)
    assert found.row == 24 and found.offsets == [0, 12, 24, 36]
    assert found.names == ["running_mean", "running_var"] * 2
    assert found.read().view(np.float32).tolist() == [0, 0, 0, 1, 1, 1] * 2
    found.write(np.arange(12, dtype=np.float32).view(np.uint8))
    assert values(found) == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert found.read().view(np.float32).tolist() == [*range(12)]


def test_a_digest_covers_a_buffer_of_all_micro_batches() -> None:
    found = statistics(2)
    before = found.digests(found.read(), 2)
    assert before.shape == (2,)
    found.buffers.copies[1][1].value[0] += 1
    assert (found.digests(found.read(), 2) != before).tolist() == [False, True]
    assert (found.digests(found.read(), 1) == statistics(1).digests(found.read()[:24], 1)).all()


def test_a_model_without_statistics_has_an_empty_array() -> None:
    found = statistics(2, nn.Linear(2, 2))
    assert found.read().size == 0 and found.digests(found.read(), 2).tolist() == []
    guest = Guest(found, Ring(found.read()), found.read(), 3)
    guest.use(2)
    assert guest.end().size == 0


def test_another_rank_has_more_micro_batches() -> None:
    """Three there, two here: each sees its own numbers, and what it changes is returned."""
    own, theirs = statistics(2), np.arange(18, dtype=np.float32)
    comm = Ring(theirs.view(np.uint8))
    guest = Guest(own, comm, own.read(), 3)
    assert comm.sent.tolist() == own.read().tolist()
    for part in range(3):
        guest.use(part)
        mean, var = own.buffers.buffers
        start = 6 * part
        assert mean.array.value.tolist() == theirs[start : start + 3].tolist()
        assert var.array.value.tolist() == theirs[start + 3 : start + 6].tolist()
        mean.array.write(mean.array.value + 100)
    after = guest.end().view(np.float32).reshape(3, 2, 3)
    assert (after[:, 0] == theirs.reshape(3, 2, 3)[:, 0] + 100).all()
    assert (after[:, 1] == theirs.reshape(3, 2, 3)[:, 1]).all()
