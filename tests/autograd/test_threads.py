"""Threads that share the work of one call."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from collections.abc import Iterator
from threading import Barrier, current_thread

import numpy as np
import pytest

from tallygrad.autograd import get_num_threads, set_num_threads
from tallygrad.autograd.threads import share


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("parts", [0, 1, 2, 5, 64])
def test_every_part_is_done_once(threads: int, parts: int) -> None:
    set_num_threads(threads)
    done = np.zeros(parts, int)
    workers = []

    def work(first: int, last: int, worker: int) -> None:
        done[first:last] += 1
        workers.append(worker)

    share(parts, work)
    assert (done == 1).all()
    assert sorted(workers) == list(range(max(1, min(threads, parts))))


def test_threads_work_at_the_same_time() -> None:
    set_num_threads(2)
    meeting = Barrier(2, timeout=20)
    names = set()

    def work(first: int, last: int, worker: int) -> None:
        meeting.wait()
        names.add(current_thread().name)

    share(2, work)
    assert len(names) == 2


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_in_a_thread_reaches_the_caller_after_all_have_ended(where: int) -> None:
    set_num_threads(2)
    ended = []

    def work(first: int, last: int, worker: int) -> None:
        if worker == where:
            raise OSError(f"in thread {worker}")
        ended.append(worker)

    with pytest.raises(OSError, match=f"in thread {where}"):
        share(2, work)
    assert ended == [1 - where]
    share(2, lambda first, last, worker: ended.append(worker))
    assert sorted(ended[1:]) == [0, 1]


def test_work_that_shares_again_goes_on_alone() -> None:
    set_num_threads(2)
    seen = []

    def inner(first: int, last: int, worker: int) -> None:
        seen.append((first, last, worker))

    share(2, lambda first, last, worker: share(4, inner))
    assert seen == [(0, 4, 0), (0, 4, 0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own() -> None:
    set_num_threads(2)
    share(2, lambda first, last, worker: None)
    child = os.fork()
    if not child:
        seen: list[int] = []
        share(2, lambda first, last, worker: seen.append(worker))
        os._exit(0 if sorted(seen) == [0, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="set_num_threads: expected at least 1 thread, got 0"):
        set_num_threads(0)


def test_an_interrupt_waits_for_the_other_threads_and_leaves_nothing_behind() -> None:
    set_num_threads(2)
    done: list[int] = []

    def slow(first: int, last: int, worker: int) -> None:
        if worker == 1:
            time.sleep(0.3)
            done.append(worker)

    def interrupted(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            share(2, slow)
        assert done == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for _ in range(3):
        done.clear()
        share(2, slow)
        assert done == [1]


def test_threads_work_in_the_context_of_the_caller() -> None:
    set_num_threads(2)
    big = np.full((2, 4), 1e38, np.float32)

    def overflow(first: int, last: int, worker: int) -> None:
        np.multiply(big[first:last], big[first:last])

    with np.errstate(over="ignore"):
        share(2, overflow)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        share(2, overflow)


def test_an_error_keeps_nothing_alive() -> None:
    set_num_threads(2)

    class Large:
        pass

    def failing(first: int, last: int, worker: int) -> None:
        large = Large()
        alive.append(weakref.ref(large))
        raise ValueError("no room")

    alive: list[weakref.ref[Large]] = []
    with pytest.raises(ValueError, match="no room"):
        share(2, failing)
    gc.collect()
    assert len(alive) == 2 and not any(r() for r in alive)
