"""`tallygrad supervise`: when it tries again, on what, and when it gives up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import attempt, cli, copies, hosts, job, mpirun, supervise
from tallygrad.launch.attempt import Outcome
from tallygrad.launch.supervise import Policy
from tallygrad.trainer import errors, lock, stop
from tallygrad.trainer.components import checkpoint
from tallygrad.trainer.distributed.verification import corruption

COMMAND = ["train", "--model", "mlp"]


class Attempts:
    """Stands in for jobs: each ends with the next outcome, having come to a step."""

    def __init__(self, folder: Path, *ends: tuple[int, int]) -> None:
        self.folder = folder / "checkpoints"
        self.ends = iter(ends)
        self.commands: list[tuple[int, str | None, list[str]]] = []
        self.tokens: list[str] = []
        self.pauses: list[float] = []

    def prepare(
        self, ranks: int, on: str | None, command: list[str], binding: str, own: dict[str, str]
    ) -> tuple[Any, Any]:
        self.commands.append((ranks, on, command))
        return [], own

    def attempt(self, line: Any, env: dict[str, str], *rest: Any) -> Outcome:
        self.tokens.append(env[supervise.VARIABLE])
        status, step = next(self.ends)
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"step-{step:08d}.h5").touch()
        return Outcome(status, "" if status in (0, 2, 3, 75) else f"ended at {step}", status == 143)


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Attempts]]:
    def fake(*ends: tuple[int, int]) -> Attempts:
        made = Attempts(tmp_path, *ends)
        monkeypatch.setattr(supervise, "prepare", made.prepare)
        monkeypatch.setattr(supervise, "attempt", made.attempt)
        monkeypatch.setattr(time, "sleep", made.pauses.append)
        return made

    yield fake


def run(folder: Path, ranks: int = 4, on: str | None = None, retries: int = 3) -> Outcome:
    command = [*COMMAND, "--out", str(folder)]
    place = supervise.Place(ranks, on)
    return supervise.supervise(place, command, Policy(retries, 1.0), None)


def test_failures_are_resumed_until_the_run_is_complete(
    attempts: Callable[..., Attempts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = attempts((9, 0), (4, 10), (71, 10), (137, 20), (0, 30))
    assert run(tmp_path).status == 0
    assert made.commands == [
        (4, None, [*COMMAND, "--out", str(tmp_path), "--resume", "auto"])
    ] * 5  # fmt: skip
    run_id = made.tokens[0].partition(":")[0]
    assert made.tokens == [f"{run_id}:{n}" for n in range(1, 6)]
    assert made.pauses == [0.0, 0.0, 1.0, 0.0]  # a new checkpoint is a new beginning
    said = capsys.readouterr().err.splitlines()
    assert (
        said[1]
        == "tallygrad: supervise: attempt 2 ended: ended at 10; resuming from step 10 at once"
    )


@pytest.mark.parametrize("status", [0, 2, 3, 75, 143])
def test_what_another_attempt_would_not_change_ends_it(
    attempts: Callable[..., Attempts], tmp_path: Path, status: int
) -> None:
    made = attempts((status, 10))
    assert run(tmp_path).status == status and len(made.commands) == 1


def test_attempts_without_progress_are_counted(
    attempts: Callable[..., Attempts], tmp_path: Path
) -> None:
    made = attempts((1, 10), *[(1, 10)] * 9)
    how = run(tmp_path)
    assert how == Outcome(
        1, "no new checkpoint in 4 attempts, the last of which ended: ended at 10"
    )
    assert made.pauses == [0.0, 1.0, 2.0, 4.0]
    assert Policy(9, 5.0).pause(40) == supervise.LONGEST


def test_a_host_that_does_not_answer_is_left_out(
    attempts: Callable[..., Attempts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([["a", "b"], ["b"], []])
    reaped: list[Any] = []

    def reachable(wanted: list[hosts.Host]) -> list[hosts.Host]:
        there = next(answers)
        return [host for host in wanted if host.name in there]

    monkeypatch.setattr(hosts, "reachable", reachable)
    monkeypatch.setattr(hosts, "reap_on", lambda on, *job: reaped.append([h.name for h in on]))
    made = attempts((1, 10), (1, 10))
    how = run(tmp_path, 6, "a:4,b:2", retries=1)
    assert [(ranks, on) for ranks, on, _ in made.commands] == [(6, "a:4,b:2"), (2, "b:2")]
    assert reaped == [["a", "b"], ["b"]]
    assert how.status == 1 and "none of the hosts a:4,b:2 answers" in how.message


def test_the_newest_step_may_come_from_memory(tmp_path: Path) -> None:
    assert supervise.newest_step(tmp_path) == -1
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000020.h5").touch()
    record = tmp_path / copies.RECORD
    for said, step in [(25, 25), (3, 20), ("x", 20), (True, 20)]:
        record.write_text(json.dumps({"name": f"tallygrad-{'0f' * 16}", "step": said}))
        assert supervise.newest_step(tmp_path) == step
    for text in ("[", '{"step": 25}'):
        record.write_text(text)
        assert supervise.newest_step(tmp_path) == 20


def test_resume_is_added_once() -> None:
    assert supervise.resuming(["train"]) == ["train", "--resume", "auto"]
    for given in (["--resume", "auto"], ["--resume=runs/a"]):
        assert supervise.resuming(["train", *given]) == ["train", *given]


@pytest.mark.parametrize("words", [["eval", "x"], ["train"], ["train", "--out"]])
def test_a_run_needs_a_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_supervised(["-n", "2", "--", *words]) == 2
    assert "expected train ... --out FOLDER" in capsys.readouterr().err


KILLING = """
import os, signal, sys
from pathlib import Path
from tallygrad.trainer import cli, loop
folder, step = Path(sys.argv[1]), loop.Training.step
def dying(self, batch):
    mark = folder / f"killed-{self.state.step}"
    if self.state.step in (3, 5) and self.comm.rank == self.state.step // 4 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)
loop.Training.step = dying
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_supervised_run_survives_kills_with_the_same_bits(
    tmp_path: Path, write_mnist: Any, alone: Callable[[], AbstractContextManager[None]]
) -> None:
    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        pytest.skip(str(error))
    script = tmp_path / "killing.py"
    script.write_text(KILLING)
    words = [
        "train", "--model", "mlp", "--backend", "numpy", "--dataset", "mnist", "--data-dir",
        str(write_mnist(tmp_path / "data", 80, 20)), "--batch-size", "10",
        "--checkpoint-every", "1", "--max-steps", "8",
    ]  # fmt: skip
    # In place of `python -P -m tallygrad.trainer WORDS` the script runs.
    code = (
        "import sys; from tallygrad.launch import cli, mpirun; line = mpirun.command_line; "
        "mpirun.command_line = lambda *a: [*line(*a)[: -len(a[4]) - 3], "
        f"{str(script)!r}, {str(tmp_path)!r}, *a[4]]; sys.exit(cli.run_supervised(sys.argv[1:]))"
    )
    # The script loads NumPy before the trainer settles its threads.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with alone():
        survived = subprocess.run(
            [sys.executable, "-c", code, "-n", "2", "--backoff", "0.1", "--", *words,
             "--out", str(tmp_path / "survived")],
            env=one_thread, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert survived.returncode == 0, survived.stderr
    said = [line for line in survived.stderr.splitlines() if "supervise: attempt" in line]
    assert len(said) == 2 and "from step 3 at once" in said[0], survived.stderr
    # Rank 1 may be killed before rank 0 has written the checkpoint of the step before.
    assert any(f"from step {step} at once" in said[1] for step in (4, 5)), said
    undisturbed = [sys.executable, "-m", "tallygrad.trainer", *words, "--out", str(tmp_path / "u")]
    subprocess.run(undisturbed, env=one_thread, check=True, capture_output=True, timeout=300)
    of = {name: tmp_path / name / "checkpoints" / "step-00000008.h5" for name in ("survived", "u")}
    one, other = (checkpoint.load(path).tensors for path in of.values())
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}


def test_this_host_needs_no_agent_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(line: Any, host: str, command: str) -> None:
        asked.append(host)

    monkeypatch.setattr(hosts, "run", refuse)
    monkeypatch.setattr(hosts, "agent", lambda: ["ssh"])
    here = [hosts.Host("localhost", 2), hosts.Host("me@127.0.0.1"), hosts.Host("elsewhere")]
    assert hosts.reachable(here) == here[:2] and asked == ["elsewhere"]
    monkeypatch.setattr(hosts, "agent", lambda: [])  # a scheduler knows which hosts it has given
    assert hosts.reachable(here) == here


def test_launcher_and_ranks_mean_the_same() -> None:
    """`launch` imports the standard library only, and repeats these."""
    assert supervise.VARIABLE == lock.ATTEMPT
    assert job.PREEMPTED == stop.PREEMPTED
    assert errors.LostRank.status == attempt.LOST
    own = (errors.UserError, errors.NotFinite, errors.LostRank, corruption.Corrupted)
    own += (errors.LackOfMemory,)
    assert {0, 1, job.PREEMPTED, *(kind.status for kind in own)} == set(job.OWN)
