"""What a rank records: in bounds, and by thread."""

from __future__ import annotations

import threading

import pytest

from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.timeline import events
from tallygrad.trainer.timeline.events import Recorder


def test_spans_nest_and_carry_their_figures() -> None:
    recorder = Recorder()
    with recorder.span("step 1", "step", step=1), recorder.span("update", "update"):
        pass
    inner, outer = recorder.spans
    assert (outer.name, outer.kind, outer.args) == ("step 1", "step", {"step": 1})
    assert outer.begin <= inner.begin <= inner.end <= outer.end and outer.thread == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 3)
    recorder = Recorder()
    for _ in range(5):
        recorder.add("x", "y", 0.0, 1.0, {})
    assert len(recorder.spans) == 3 and recorder.dropped == 2


def test_threads_of_one_name_share_a_row() -> None:
    recorder, end = Recorder(), threading.Event()
    threads = []
    for name in ("loader", "exchange", "loader"):
        added = threading.Event()

        def add(added: threading.Event = added) -> None:
            recorder.add("x", "y", 0, 1, {})
            added.set()
            end.wait(60)  # so that the next thread is no successor with the same number

        threads.append(threading.Thread(target=add, name=name))
        threads[-1].start()
        assert added.wait(60)
    end.set()
    for thread in threads:
        thread.join()
    recorder.add("x", "y", 0, 1, {})
    assert [span.thread for span in recorder.spans] == [1, 2, 1, 0]
    assert recorder.threads == {0: "main", 1: "loader", 2: "exchange"}


def test_collectives_and_activities_come_from_the_journal() -> None:
    journal = SerialComm().journal
    with journal.doing("checkpoint"):
        pass
    journal.recorder = Recorder()
    with journal.doing("evaluation"), journal.collective("main", "allreduce", 40):
        pass
    flying = journal.collective("main", "iallreduce", 80)
    flying.polled()
    flying.polled()
    spans = journal.recorder.spans
    assert [(s.name, s.kind) for s in spans] == [
        ("allreduce", "collective"), ("evaluation", "activity"),
        ("iallreduce", "exchange in flight"),
    ]  # fmt: skip
    assert (spans[0].args["bytes"], spans[0].args["number"], spans[2].args["number"]) == (40, 1, 2)
    assert [s.flight for s in spans] == [False, False, True]
    assert spans[0].args["line"].startswith("timeline/test_events.py:")


def test_an_exchange_that_is_waited_for_is_in_flight_from_its_start() -> None:
    journal = SerialComm().journal
    journal.recorder = Recorder()
    flying = journal.collective("main", "iallreduce", 80)
    with flying:
        pass
    wait, flight = journal.recorder.spans
    assert wait.kind == "collective" and flight.flight
    assert flight.begin <= wait.begin <= wait.end == flight.end
