"""What drives the exchange: the choice by trial, and the times that come of it."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import OVERLAPS, Reducer
from tallygrad.trainer.distributed.overlap import (
    TRIALS,
    WARMING,
    ExchangeTimes,
    OverlapChoice,
    ways_to_drive,
)
from tallygrad.trainer.errors import UserError


class Clocked(SerialComm):
    """Two ranks that hold the same, but for the slowest rank's times, as another one reports
    them."""

    size = 2

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times

    def allreduce(self, array: np.ndarray, op: str = "sum") -> None:
        array[...] = self.times if op == "max" else 2 * array


def test_the_fastest_way_is_chosen_after_trials_of_all() -> None:
    for fastest, name in enumerate(OVERLAPS):
        reducer = Reducer(Clocked([2.0 - (i == fastest) for i in range(len(OVERLAPS))]))
        choice, tried = OverlapChoice(reducer), []
        while not choice.ended:
            tried.append(reducer.overlap)
            choice.step()
        assert reducer.overlap == name
        assert tried[:WARMING] == [OVERLAPS[0]] * WARMING
        assert [tried[WARMING:].count(way) for way in OVERLAPS] == [TRIALS] * len(OVERLAPS)
        choice.step()
        assert reducer.overlap == name


def test_what_lies_between_two_steps_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a checkpoint after each step that tries one of the ways."""
    clock, taken = itertools.count(step=1.0), []

    class Slowest(Clocked):
        def allreduce(self, array: np.ndarray, op: str = "sum") -> None:
            taken.extend(array)

    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    choice = OverlapChoice(reducer := Reducer(Slowest([])))
    while not choice.ended:
        for _ in range(5 if reducer.overlap == "poll" else 0):
            next(clock)
        choice.begin()
        choice.step()
    assert taken == [1.0] * len(OVERLAPS)


def test_a_given_way_is_taken_once_the_whole_exchange_is_measured() -> None:
    reducer = Reducer(Clocked([1.0]))
    choice = OverlapChoice(reducer, ["poll"])
    tried = []
    while not choice.ended:
        tried.append(reducer.overlap)
        choice.step()
    assert tried.count("none") == WARMING + TRIALS and tried.count("poll") == TRIALS
    assert reducer.overlap == "poll"


def test_a_thread_is_not_tried_where_mpi_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ways_to_drive("auto", Clocked([])) == OVERLAPS
    assert ways_to_drive("thread", Clocked([])) == ("thread",)
    monkeypatch.setattr(Clocked, "concurrent", False)
    assert ways_to_drive("auto", Clocked([])) == ("none", "poll")
    assert ways_to_drive("poll", Clocked([])) == ("poll",)
    with pytest.raises(UserError, match="expected none or poll"):
        ways_to_drive("thread", Clocked([]))


def steps(choice: OverlapChoice, reducer: Reducer, exposed: dict[str, float], count: int) -> None:
    for _ in range(count):
        reducer.exposed += exposed[reducer.overlap]
        choice.step()


def test_hidden_is_what_the_whole_exchange_takes_without_what_is_exposed() -> None:
    reducer = Reducer(Clocked([1.0]))
    choice = OverlapChoice(reducer, ["thread"])
    exposed = {"none": 0.5, "thread": 0.125}
    steps(choice, reducer, exposed, 3)
    assert choice.take() == ExchangeTimes(1.5, 0.0)
    steps(choice, reducer, exposed, WARMING + 2 * TRIALS - 3)
    assert choice.take() == ExchangeTimes(0.5 * (WARMING + TRIALS - 3) + 0.125 * TRIALS, 0.0)
    steps(choice, reducer, exposed, 8)
    assert choice.take() == ExchangeTimes(1.0, 3.0)
    assert choice.take() == ExchangeTimes()
    steps(choice, reducer, {"thread": 0.75}, 8)  # slower than on its own: nothing was hidden
    assert choice.take() == ExchangeTimes(6.0, 0.0)


def test_without_overlap_nothing_is_hidden() -> None:
    reducer = Reducer(Clocked([1.0]))
    choice = OverlapChoice(reducer, ["none"])
    steps(choice, reducer, {"none": 0.5}, WARMING + TRIALS)
    choice.take()
    steps(choice, reducer, {"none": 0.25}, 4)
    assert choice.take() == ExchangeTimes(1.0, 0.0)


RANKS = """
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.overlap import OverlapChoice

comm = connect()
reducer = Reducer(comm)
choice = OverlapChoice(reducer, ["none"])
reducer.exposed += comm.rank + 1.0
print(f"{choice.take().exposed}\\n", end="")
"""


def test_times_are_means_over_the_ranks(mpirun: Any) -> None:
    done = mpirun(3, RANKS)
    assert done.stdout.split() == ["2.0"] * 3, done.stderr


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_log_and_bill_tell_the_times_of_each_epoch(
    mpirun: Any, tmp_path: Path, write_mnist: Any, ranks: int
) -> None:
    write_mnist(tmp_path / "data", 240, 20)
    out = tmp_path / "run"
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--batch-size", "8"]
    words += ["--model", "mlp", "--out", str(out), "--overlap", "poll"]
    command = ["-m", "tallygrad.trainer", "train", *words, "--epochs", "3", "--max-steps", "45"]
    assert mpirun(ranks, command).returncode == 0
    command = ["-m", "tallygrad.trainer", "train", "--out", str(out), "--resume", "auto"]
    done = mpirun(ranks, [*command, "--epochs", "3"])
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("exchange_exposed_seconds", "exchange_hidden_seconds")
    logged = [[e[name] for name in names] for e in lines if e["event"] == "epoch"]
    head, *rows = (out / "metrics.csv").read_text().splitlines()
    assert head.endswith(",".join(names)) and len(rows) == len(logged)
    done = mpirun(1, ["-m", "tallygrad.trainer", "bill", str(out), "--json"])
    bill = json.loads(done.stdout)
    billed = [[e[name] for name in names] for e in bill["each_epoch"]]
    # What comes between the line of an epoch and its checkpoint belongs to the next line.
    np.testing.assert_allclose(np.sum(billed, axis=0), [bill[name] for name in names], rtol=1e-9)
    assert len(billed) == 3 and [e["step"] for e in lines if e["event"] == "epoch"][-1] == 90
    assert (np.array(billed)[:, 0] > 0).all() == (ranks > 1)
    np.testing.assert_allclose(billed[2], logged[-1], rtol=1e-6, atol=1e-9)
    if ranks == 1:
        assert not np.any(billed)
