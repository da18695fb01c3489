"""What a script shares with the other ranks."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.trainer as tg
from tallygrad.trainer import session
from tallygrad.trainer.distributed.comm import SerialComm


def test_counts_are_summed_as_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_joined", [SerialComm()])
    large = (1 << 53) + 1  # which float64 cannot hold
    assert tg.sum(large) == large and type(tg.sum(large)) is int
    assert type(tg.sum(np.int32(3))) is int and type(tg.sum(3.0)) is float
    assert tg.sum(np.arange(2)).dtype == np.int64 and tg.sum(np.ones(2)).dtype == np.float64
