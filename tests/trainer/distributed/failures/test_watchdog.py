"""The watchdog: whom it blames, whom it lets alone, and what it leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.distributed.failures.verdict import PATIENCE, Seen, Status, judge
from tallygrad.trainer.distributed.failures.watchdog import BEAT, GAP, Gaps, Pulse
from tallygrad.trainer.distributed.journal import INNER, WHOLE, Journal

LIMIT = 60.0
ONE = "rank 1 on n1 (process 101)"


def status(rank: int, **fields: Any) -> Status:
    facts: dict[str, Any] = {"step": 41, "activity": "training"}
    return Status(rank, f"n{rank}", 100 + rank, **facts | fields)


def waiting(rank: int, seconds: float, number: int = 10, **fields: Any) -> Status:
    call = {
        "stream": "main",
        "waits": number,
        "name": "allreduce",
        "call": f"allreduce (#{number})",
    }
    return status(rank, waited=seconds, **call | fields)


def verdict(*seen: Seen) -> str:
    return judge({s.status.rank: s for s in seen}, LIMIT)


@pytest.mark.parametrize(
    ("seen", "blamed"),
    [
        ([Seen(waiting(0, 61)), Seen(status(1), silent=62)],
         f"{ONE} has given no sign of life for 62 s; "
         "rank 0 waits for it for 61 s in allreduce (#10)"),
        ([Seen(waiting(0, 61)), Seen(status(1, still=70))], ONE + " has stood still for 70 s"),
        ([Seen(waiting(0, 61)), Seen(waiting(1, 61, stream="node"))],
         "rank 0 waits for it for 61 s in allreduce (#10)"),
        ([Seen(waiting(0, 61)), Seen(waiting(1, 61)), Seen(status(2), silent=61)],
         "rank 0 and 1 more wait for it"),
        ([Seen(waiting(0, PATIENCE * LIMIT)), Seen(status(1))], ONE + " has not come"),
        ([Seen(waiting(0, 61)), Seen(waiting(1, 61))],
         "all ranks have come, but the collective does not end"),
        ([Seen(waiting(0, 61)), Seen(waiting(1, 61), silent=61)], ONE + " has given no sign"),
        ([Seen(waiting(0, 1)), Seen(status(1), gone=True)],
         ONE + " ended unexpectedly, training, step 41"),
        ([Seen(waiting(0, 1)), Seen(waiting(1, 1, name="bcast"))],
         "ranks differ in their collectives: rank 0"),
    ],
)  # fmt: skip
def test_who_keeps_the_others_waiting(seen: list[Seen], blamed: str) -> None:
    assert blamed in verdict(*seen)


@pytest.mark.parametrize(
    "seen",
    [
        [Seen(waiting(0, 59)), Seen(status(1), silent=200)],  # not yet
        [Seen(waiting(0, 599)), Seen(status(1, still=3))],  # it works, if slowly
        [Seen(waiting(0, 599)), Seen(status(1, still=599, activity="checkpoint"))],  # a disk
        [Seen(status(0)), Seen(status(1), silent=999)],  # nobody waits
        [Seen(waiting(0, 61, nbytes=10**8)), Seen(waiting(1, 61, nbytes=10**8))],  # slowly
        [Seen(waiting(0, 5)), Seen(waiting(1, 5, number=11, name="bcast"))],  # not the same one
    ],
)  # fmt: skip
def test_who_is_let_alone(seen: list[Seen]) -> None:
    assert verdict(*seen) == ""


def test_a_rank_of_which_nothing_is_known_is_waited_for() -> None:
    """It has not come, so that not all have; it may work, and cannot say so."""
    near, far = ({r: Seen(waiting(r, s)) for r in (0, 2)} for s in (61, PATIENCE * LIMIT))
    assert judge(near, LIMIT, unknown={1}) == ""
    assert judge(far, LIMIT, unknown={1}).startswith("rank 1 cannot be reached; rank 0 and 1 more")


def test_ranks_that_wait_in_two_streams_are_found_out() -> None:
    """Each waits for what the other has to drive."""
    one, other = waiting(0, 61, number=3, stream="return"), waiting(1, 61)
    assert f"{ONE} does not come, in allreduce (#10)" in verdict(Seen(one), Seen(other))
    assert verdict(Seen(one), Seen(waiting(1, 5))) == ""


def test_a_rank_in_no_collective_is_blamed_before_those_in_another_stream() -> None:
    """Rank 2 waits for rank 3, which stands still, within their node."""
    far = [waiting(rank, 61, number=5) for rank in (0, 1)]
    near, stuck = waiting(2, 62, number=101, stream="node"), status(3, still=70)
    seen = [Seen(rank) for rank in (*far, near, stuck)]
    assert verdict(*seen).startswith("rank 3 on n3 (process 103) has stood still for 70 s")


def test_the_journal_names_the_line_outside_the_package() -> None:
    journal = Journal()
    journal.step = 7
    with journal.collective("main", "allreduce", 4000) as call:
        assert journal.waiting is call
    assert journal.waiting is None and list(journal.latest) == [call]
    assert str(call) == f"allreduce of 4,000 bytes (#1) at step 7, failures/test_watchdog.py:{LINE}"
    assert journal.begun == {"main": 1}


LINE = test_the_journal_names_the_line_outside_the_package.__code__.co_firstlineno + 3


def test_in_a_script_the_journal_names_the_line_of_the_script() -> None:
    """Of the same call, and of an error; the command names the trainer's line."""
    scope: dict[str, Any] = {"__name__": "tallygrad.trainer.saving"}
    text = "def save(journal):\n    return journal.collective('main', 'allreduce')"
    exec(compile(text, "trainer/saving.py", "exec"), scope)
    for inner, place in (INNER, "trainer/saving.py:2"), (WHOLE, "failures/test_watchdog.py:"):
        journal = Journal()
        journal.inner = inner
        assert place in str(scope["save"](journal))
        with pytest.raises(AttributeError) as caught:
            scope["save"](None)
        assert place in journal.place(caught.value)


def test_the_main_thread_is_seen_to_move_and_to_stand_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen from another thread, as by the watchdog. Threads of the tests compute besides, so the
    process's time is made up."""
    computed = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: computed[0])
    pulse, stills, moved = Pulse(), [], threading.Event()

    def watch() -> None:
        for _ in range(5):
            time.sleep(0.1)
            stills.append(pulse.still())
        computed[0] = 1e3  # in a call of C, whose frames do not move
        stills.append(pulse.still())
        moved.set()

    threading.Thread(target=watch).start()
    moved.wait()  # the main thread stands still here
    assert stills[-2] > stills[1] > 0
    assert stills[-1] == 0
    time.sleep(0.1)
    assert pulse.still() == 0  # it has moved


def test_time_in_which_the_process_did_not_run_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    gaps = Gaps()
    for late, missing in ((0.0, 0.0), (GAP - 0.1, 0.0), (70.0, 70.0), (0.0, 0.0)):
        now[0] += BEAT + late
        assert gaps.beat() == missing
    assert gaps.since(100.0) == 70.0
    assert gaps.since(now[0]) == 0.0


RANKS = """
import os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.failures.watchdog import watching
comm = connect()
with watching(comm, 3.0), guard(comm):
    comm.journal.folder = Path({folder!r})
    x = np.ones(1000, np.float32)
    for comm.journal.step in range(4):
        if comm.rank == {rank} and comm.journal.step == 2:
            {fault}
        comm.allreduce(x)
print("done", flush=True)
"""
BUSY = "end = time.monotonic() + 8\n            while time.monotonic() < end: sum(range(1000))"


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_rank_ends_the_job(mpirun: Callable[..., Any], tmp_path: Path, rank: int) -> None:
    fault = "os.kill(os.getpid(), signal.SIGSTOP)"
    done = mpirun(3, ["-c", RANKS.format(folder=str(tmp_path / "dump"), rank=rank, fault=fault)])
    assert done.returncode == 4, done.stderr
    line, *others = [line for line in done.stderr.splitlines() if "tallygrad: error:" in line]
    assert not others and f"rank {rank} on " in line and "no sign of life" in line
    assert "allreduce of 4,000 bytes (#5) at step 2, <string>:" in line
    dumps = [path.read_text() for path in (tmp_path / "dump").iterdir()]
    assert len(dumps) == 2
    assert all("Thread MainThread" in text and "Latest collectives" in text for text in dumps)


def test_a_rank_that_stands_still_ends_the_job(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    fault = "threading.Event().wait()"
    done = mpirun(2, ["-c", RANKS.format(folder=str(tmp_path / "dump"), rank=1, fault=fault)])
    assert done.returncode == 4, done.stderr
    assert "rank 1 on " in done.stderr and "has stood still for" in done.stderr
    assert "threading.py" in (tmp_path / "dump" / "rank-1.txt").read_text()


@pytest.mark.slow
def test_a_rank_that_works_is_waited_for(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    done = mpirun(2, ["-c", RANKS.format(folder=str(tmp_path / "dump"), rank=1, fault=BUSY)])
    assert done.returncode == 0 and done.stdout.split() == ["done", "done"], done.stderr
    assert not (tmp_path / "dump").exists()


@pytest.mark.slow
def test_a_suspended_job_goes_on(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    """All ranks are stopped for longer than the limit, which they are not blamed for."""
    fault = (
        "others = [int(x) for x in comm.allgather(np.array(os.getpid())).tolist()]\n"
        "            code = f'import os, time; time.sleep(1); "
        "[os.kill(p, 19) for p in {others}]; time.sleep(9); [os.kill(p, 18) for p in {others}]'\n"
        "            comm.rank or subprocess.Popen([sys.executable, '-c', code])\n"
        "            time.sleep(12)"
    )
    everywhere = RANKS.replace("comm.rank == {rank} and ", "").replace("os,", "os, subprocess,", 1)
    done = mpirun(2, ["-c", everywhere.format(folder=str(tmp_path / "dump"), rank=0, fault=fault)])
    assert done.returncode == 0 and done.stdout.split() == ["done", "done"], done.stderr
