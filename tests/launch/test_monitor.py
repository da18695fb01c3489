"""Which rank the launcher says was lost first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tallygrad.launch import monitor
from tallygrad.launch.channel import Contact, Hub, Peer, reach
from tallygrad.launch.monitor import Monitor

Join = Callable[..., Peer]


@pytest.fixture
def listening() -> Iterator[tuple[Monitor, Join]]:
    listener, peers = Monitor(), []
    contact = Contact(*json.loads(listener.environment[monitor.VARIABLE]))

    def join(rank: int, tells: bool = True) -> Peer:
        peer = reach(contact, rank)
        assert peer is not None
        peers.append(peer)
        if tells:
            peer.send({"title": f"rank {rank} on n{rank}", "doing": f"in step {rank}"})
        until(lambda: rank in listener._hub.peers)
        return peer

    yield listener, join
    for peer in peers:
        peer.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; a limit ends a broken test."""
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    assert holds()


def test_the_first_to_end_is_named(listening: tuple[Monitor, Join]) -> None:
    listener, join = listening
    ranks = [join(rank) for rank in range(3)]
    until(lambda: len(listener._statuses) == 3)
    for rank in (1, 0, 2):
        ranks[rank].close()
        until(lambda: listener._first is not None)
    assert listener.close() == "rank 1 on n1 ended unexpectedly, in step 1"


def test_one_that_ends_before_it_says_anything_is_named(
    listening: tuple[Monitor, Join],
) -> None:
    listener, join = listening
    silent, other = join(0, tells=False), join(1)
    until(lambda: 1 in listener._statuses)
    silent.close()
    until(lambda: listener._first is not None)
    other.close()
    assert listener.close() == "rank 0 ended unexpectedly, before it said what it does"


def test_a_farewell_is_no_loss(listening: tuple[Monitor, Join]) -> None:
    listener, join = listening
    peer = join(0)
    peer.send({"farewell": True})
    until(lambda: 0 in listener._left)
    peer.close()
    assert listener.close() == ""


def test_a_number_that_another_rank_takes_over_counts_again(
    listening: tuple[Monitor, Join],
) -> None:
    """In a job that has shrunk: rank 2 says farewell and is rank 1 from then on."""
    listener, join = listening
    join(1).send({"farewell": True})
    until(lambda: 1 in listener._left)
    other = join(1, tells=False)
    other.send({"title": "rank 1 on n2", "doing": "in step 9"})
    until(lambda: listener._statuses[1]["doing"] == "in step 9")
    other.close()
    until(lambda: listener._first is not None)
    assert listener.close() == "rank 1 on n2 ended unexpectedly, in step 9"


def test_a_verdict_ends_the_job_and_names_the_reason(listening: tuple[Monitor, Join]) -> None:
    listener, join = listening
    peer, other = join(0), join(1)
    assert listener.ending == 0.0
    peer.send({"verdict": "rank 1 is lost"})
    until(lambda: listener.ending > 0.0)
    other.send({"verdict": "rank 0 does not answer"})
    until(lambda: len(listener._left) == 2)
    peer.close()
    other.close()
    assert listener.close() == "rank 1 is lost"


def test_segments_of_all_ranks_are_collected(listening: tuple[Monitor, Join]) -> None:
    listener, join = listening
    join(0).send({"segments": ["sm_segment.a.0", "sm_segment.a.1"]})
    join(1).send({"segments": ["sm_segment.b.0"]})
    until(lambda: len(listener.segments) == 3)
    assert listener.segments == ("sm_segment.a.0", "sm_segment.a.1", "sm_segment.b.0")


def test_ranks_that_outlive_their_mpi_are_waited_for(
    listening: tuple[Monitor, Join], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LOSING", 60.0)
    listener, join = listening
    ranks = [join(rank) for rank in range(2)]
    until(lambda: len(listener._statuses) == 2)
    late = threading.Timer(2 * monitor.POLL, ranks[1].close)
    late.start()
    ranks[0].send({"farewell": True})
    ranks[0].close()
    assert listener.close() == "rank 1 on n1 ended unexpectedly, in step 1"
    late.join()


def test_what_ranks_said_before_they_ended_is_heard_by_a_late_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a host that is busy, it may come to nothing before the job has ended."""
    closing = threading.Event()

    def late(hub: Hub, seconds: float) -> Iterator[tuple[int, Any]]:
        closing.wait()
        yield from ()

    monkeypatch.setattr(Hub, "messages", late)
    listener = Monitor()
    listener._closing = closing
    contact = Contact(*json.loads(listener.environment[monitor.VARIABLE]))
    for rank in range(20):
        peer = reach(contact, rank)
        assert peer is not None
        peer.send({"title": f"rank {rank}", "doing": "in step 1"})
        peer.send({"segments": [f"sm_segment.{rank}.{i}" for i in range(50)]})
        peer.send({"verdict": "rank 3 is lost"} if rank == 3 else {"farewell": True})
        peer.close()
    assert listener.close() == "rank 3 is lost"
    assert len(listener.segments) == 20 * 50


def test_a_rank_that_is_cut_off_is_not_waited_for_any_longer(
    listening: tuple[Monitor, Join], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LOSING", 0.1)
    listener, join = listening
    join(0), join(1).close()
    until(lambda: listener._first is not None)
    assert listener.close().startswith("rank 1 on n1 ended")
