"""`tallygrad launch`: the ranks of a job start, stop and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import attempt, monitor
from tallygrad.launch import job as jobs

CALL = "import sys; from tallygrad.launch import cli, job; {}; sys.exit(cli.run(sys.argv[1:]))"
# Stands in for the trainer. Each rank leaves its number and process id in the folder of the test.
TRAINER = """
import os, pathlib, signal, sys, time
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]
size = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ["PMI_SIZE"]
word, *rest = sys.argv[2:]
if word == "stubborn":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
if word == "preempted":
    signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(3))
folder = pathlib.Path(os.environ["FAKE_FOLDER"])
def keep(number, frame):
    time.sleep(0.5)
    (folder / f"kept-{rank}").touch()
    os._exit(138)
if word == "keeps":
    signal.signal(signal.SIGUSR1, keep)
(folder / f"new-{rank}").write_text(f"{os.getpid()} {size}")
(folder / f"new-{rank}").rename(folder / f"rank-{rank}")
if word == "status" and rank == rest[0]:
    sys.exit(int(rest[1]))
if word == "--out" and rank == "0":
    if rest[1:] == ["record"]:
        pathlib.Path(rest[0], "result.json").write_text("{}")
if word in ("sleep", "stubborn", "preempted", "keeps") or (word, rank) == ("one", "0"):
    time.sleep(60)
"""
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(
    tmp_path: Path,
    fake_trainer: Callable[[str], str],
    alone: Callable[[], AbstractContextManager[None]],
) -> Iterator[Launch]:
    """Return launch(ranks, *words): `tallygrad launch -n RANKS -- train WORDS`, a fake trainer."""
    env = {**os.environ, "PYTHONPATH": fake_trainer(TRAINER), "FAKE_FOLDER": str(tmp_path)}

    def start(
        ranks: int, *words: str, options: tuple[str, ...] = (), setup: str = "0"
    ) -> subprocess.Popen[str]:
        call = [sys.executable, "-c", CALL.format(setup)]
        command = [*call, "-n", str(ranks), *options, "--", "train", *words]
        return subprocess.Popen(
            command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True, errors="replace"
        )

    with alone():
        yield start


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds} s"
        time.sleep(0.05)


def _processes(folder: Path, ranks: int) -> list[int]:
    """Wait until all ranks are up; return their process ids."""
    files = [folder / f"rank-{rank}" for rank in range(ranks)]
    _wait_for(lambda: all(file.exists() for file in files), 20)
    return [int(file.read_text().split()[0]) for file in files]


def _alive(process: int) -> bool:
    # A process that ended but was not collected yet is no orphan.
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_all_ranks_start(launch: Launch, tmp_path: Path, ranks: int) -> None:
    assert _finish(launch(ranks, "end"))[0] == 0
    sizes = [file.read_text().split()[1] for file in tmp_path.glob("rank-*")]
    assert sizes == [str(ranks)] * ranks


@pytest.mark.parametrize("status", [1, 2, 3])
def test_status_of_a_rank_comes_back(launch: Launch, status: int) -> None:
    assert _finish(launch(2, "status", "1", str(status)))[0] == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_ranks(launch: Launch, tmp_path: Path, number: signal.Signals) -> None:
    process = launch(2, "sleep")
    ranks = _processes(tmp_path, 2)
    process.send_signal(number)
    assert _finish(process)[0] == 128 + number
    assert not any(_alive(rank) for rank in ranks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ranks_can_keep_their_work_when_asked_to_stop(
    launch: Launch, tmp_path: Path, number: signal.Signals
) -> None:
    """On both MPIs, also when the request comes twice at once; their status is no failure of
    theirs, but a failure of theirs keeps its status."""
    for word, status in (("keeps", 128 + number), ("preempted", 3)):
        process = launch(2, word)
        _processes(tmp_path, 2)
        process.send_signal(number)
        process.send_signal(number)
        assert _finish(process)[0] == status
        for file in tmp_path.glob("rank-*"):
            file.unlink()
    assert len([*tmp_path.glob("kept-*")]) == 2


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    line = [sys.executable, "-c", "import os, time; time.sleep(1)"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job = jobs.Job(line, dict(os.environ))
        os.kill(os.getpid(), signal.SIGHUP)
        assert job.wait(None) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_kills_ranks_that_ignore_the_first(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "stubborn")
    ranks = _processes(tmp_path, 2)
    start = time.monotonic()
    process.terminate()
    time.sleep(jobs.ONCE + 0.2)
    process.send_signal(signal.SIGINT)
    assert _finish(process)[0] == 128 + signal.SIGTERM
    assert time.monotonic() - start < jobs.GRACE / 2
    assert not any(_alive(rank) for rank in ranks)


def test_a_preemption_signal_reaches_the_ranks(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "preempted")
    _processes(tmp_path, 2)
    process.send_signal(signal.SIGUSR1)
    assert _finish(process)[0] == 3


def test_timeout_ends_the_job(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "sleep", options=("--timeout", "1.5"))
    status, err = _finish(process)
    assert status == jobs.TIMED_OUT
    assert "tallygrad: error: --timeout: the job was ended after 1.5 s" in err
    assert not any(_alive(rank) for rank in _processes(tmp_path, 2))


def test_ranks_outlive_no_killed_mpirun(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "sleep")
    ranks = _processes(tmp_path, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert _finish(process)[0] == 128 + signal.SIGKILL
    assert not any(_alive(rank) for rank in ranks)


def test_ranks_outlive_no_killed_launcher(
    tmp_path: Path, write_mnist: Any, alone: Callable[[], AbstractContextManager[None]]
) -> None:
    """Real ranks: those of Open MPI end since they watch their parent."""
    data = write_mnist(tmp_path / "data", 40, 20)
    words = ["--dataset", "mnist", "--data-dir", str(data), "--model", "mlp", "--backend", "numpy"]
    words += ["--batch-size", "10", "--epochs", "1000000", "--log-every", "1"]
    command = [sys.executable, "-c", CALL.format("0"), "-n", "2", "--", "train", *words]
    log, env = tmp_path / "run" / "log.jsonl", {**os.environ, "OF_TEST": str(tmp_path)}
    with (
        alone(),
        subprocess.Popen(
            [*command, "--out", str(log.parent)], env=env, stderr=subprocess.DEVNULL
        ) as process,
    ):
        _wait_for(log.exists, 60)
        process.kill()
        process.wait()
        try:
            _wait_for(lambda: not _marked(tmp_path), 20)
        finally:
            for rank in _marked(tmp_path):
                os.kill(rank, signal.SIGKILL)


def _marked(folder: Path) -> list[int]:
    """Return the processes that a test started with a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"OF_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def test_a_rank_that_ends_alone_ends_the_job(launch: Launch, tmp_path: Path) -> None:
    """Before MPI_Init, say, which MPICH does not see, or with status 0."""
    process = launch(2, "one", setup="job.LOOK = 0.3")
    status, err = _finish(process)
    assert status == 4
    assert err.endswith("error: rank 1 ended before the others: the job was ended\n")
    assert not any(_alive(rank) for rank in _processes(tmp_path, 2))


def test_status_0_counts_only_with_a_new_record(launch: Launch, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for stale in (False, True):
        if stale:
            (folder / "result.json").write_text("{}")
        status, err = _finish(launch(1, "--out", str(folder)))
        assert status == 1 and "result.json: not written" in err
    assert _finish(launch(1, "--out", str(folder), "record")) == (0, "")


def test_a_job_that_its_ranks_have_given_up_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for an mpirun that waits for its process on a host that is cut off."""
    monkeypatch.setattr(jobs, "ENDING", 0.1)
    code = (
        "import json, os, time; from tallygrad.launch.channel import Contact, reach; "
        f"peer = reach(Contact(*json.loads(os.environ[{monitor.VARIABLE!r}])), 0); "
        "peer.send({'verdict': 'rank 1 is lost'}); time.sleep(60)"
    )
    job = jobs.Job([sys.executable, "-c", code], dict(os.environ))
    assert job.wait(None) == 128 + signal.SIGKILL
    assert job.report == "rank 1 is lost"
    how = attempt._judge(job, 137, None, None, None)
    assert (how.status, how.message) == (attempt.LOST, "rank 1 is lost")


LEAVING = """
import os, pathlib, signal
name = "mpich_shm_" + os.environ["TALLYGRAD_JOB"]
pathlib.Path("/dev/shm", name).touch()
import json; from tallygrad.launch.channel import Contact, reach
peer = reach(Contact(*json.loads(os.environ["TALLYGRAD_MONITOR"])), 0)
peer.send({"segments": [name]})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_shared_memory_of_killed_ranks_is_removed() -> None:
    job = jobs.Job([sys.executable, "-c", LEAVING], dict(os.environ))
    job.wait(None)
    assert job.segments == (f"mpich_shm_{job.name}",)
    assert not Path("/dev/shm", *job.segments).exists()
