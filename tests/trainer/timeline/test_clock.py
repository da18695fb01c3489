"""Clocks of ranks: what is found of a difference lies within the error that is told."""

from __future__ import annotations

import threading
import time
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.timeline import clock
from tallygrad.trainer.timeline.clock import Sync, corrected, synchronise

SKEWS = (0.0, 250.0, -3.5)


class Threads(SerialComm):
    """A rank that is a thread; messages between each two go through queues."""

    def __init__(self, rank: int, mail: dict[tuple[int, int], Queue[Any]]) -> None:
        super().__init__()
        self.rank, self.size, self.mail = rank, len(SKEWS), mail

    def sendrecv(self, array: Any, out: Any, other: int) -> None:
        self.mail[self.rank, other].put(array.copy())
        out[...] = self.mail[other, self.rank].get(timeout=30)


def test_a_difference_is_found_within_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    own = threading.local()
    skewed = SimpleNamespace(monotonic=lambda: time.monotonic() + own.skew)
    monkeypatch.setattr(clock, "time", skewed)
    ranks = range(len(SKEWS))
    mail: dict[tuple[int, int], Queue[Any]] = {(a, b): Queue() for a in ranks for b in ranks}
    found: dict[int, Sync] = {}

    def run(rank: int) -> None:
        own.skew = SKEWS[rank]
        found[rank] = synchronise(Threads(rank, mail))

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0].offset == found[0].error == 0
    for rank in (1, 2):
        assert 0 < found[rank].error < 30
        assert abs(found[rank].offset + SKEWS[rank]) <= found[rank].error


def test_drift_is_taken_out() -> None:
    """A clock that began 5 s behind and gains a millisecond a second."""
    local = np.array([100.0, 200.0, 300.0])
    truth = 105.0 + (local - 100.0) * 0.999
    syncs = [Sync(100.0, 5.0, 0.0), Sync(300.0, truth[2] - 300.0, 0.0)]
    assert [corrected(x, syncs) for x in local] == pytest.approx(truth.tolist(), abs=1e-9)
    assert corrected(150.0, syncs[:1]) == 155.0
