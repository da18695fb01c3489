"""A job that goes on without the ranks that it has lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from tallygrad.launch import mpirun as launcher
from tallygrad.trainer.cli import main
from tallygrad.trainer.commands import ranks
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.resume import Heritage, occupy
from tallygrad.trainer.distributed.comm import Comm, SerialComm
from tallygrad.trainer.distributed.failures.guard import Shrunk, guard
from tallygrad.trainer.distributed.failures.watchdog import DYING
from tallygrad.trainer.errors import UserError


class LostOne(Exception):
    """Stands in for what MPI raises."""


class TwoRanks(SerialComm):
    """Two ranks, of which one may be lost."""

    size = 2
    outlives_ranks = True

    def survivors(self, error: BaseException) -> tuple[Comm, list[int]] | None:
        """Return the other one."""
        return (SerialComm(), [1]) if isinstance(error, LostOne) else None


def test_the_ranks_that_are_left_are_handed_on() -> None:
    with pytest.raises(Shrunk) as shrunk, guard(TwoRanks(), shrinks=True):
        raise LostOne
    assert str(shrunk.value) == "lost rank 1 of 2; going on with 1 rank"
    assert shrunk.value.comm.size == 1


@pytest.mark.parametrize(("error", "shrinks"), [(LostOne, False), (ZeroDivisionError, True)])
def test_other_errors_end_the_job(error: type[Exception], shrinks: bool) -> None:
    with pytest.raises(SystemExit) as end, guard(TwoRanks(), shrinks):
        raise error
    assert end.value.code == 1


def test_an_mpi_that_cannot_go_on_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    comm = TwoRanks()
    comm.outlives_ranks = False
    options = {"on_lost_rank": "shrink"}
    with pytest.raises(SystemExit) as end, ranks.together(comm, "train", options, ""):
        raise AssertionError("expected no training")
    assert end.value.code == UserError.status
    assert "--on-lost-rank shrink: expected Open MPI" in capsys.readouterr().err


def test_what_is_left_goes_on_from_where_the_run_began(tmp_path: Path) -> None:
    """Before its first checkpoint, a run that resumes another one has nothing of its own."""
    words = ["--model", "mlp", "--dataset", "digits", "--max-steps", "2", "--batch-size", "8"]
    assert main(["train", *words, "--out", str(tmp_path / "first")]) == 0
    (source,) = (tmp_path / "first" / "checkpoints").glob("step-*.h5")
    chosen = {"resume": str(source), "out": str(tmp_path / "next"), "hierarchical": "on"}
    heritage = Heritage()
    with occupy(chosen, SerialComm(), heritage) as (_, begun_from, _folder):
        assert begun_from == source
    with occupy(chosen, SerialComm(), heritage) as (config, begun_from, _folder):
        assert begun_from == source
        assert (config.resume, config.hierarchical, config.micro_batches) == ("auto", "auto", 2)


LOSING = """
import os, signal, sys, time
from tallygrad.trainer import cli, loop
from tallygrad.trainer.distributed.mpi import MpiComm

step, depart = loop.Training.step, MpiComm.depart
lost, seconds = eval(sys.argv.pop(1)), float(sys.argv.pop(1))

def fatal_step(training, batch):
    now = training.comm.size, training.comm.rank, training.state.step
    if now in lost:
        os.kill(os.getpid(), signal.SIGKILL)
    if any(now[::2] == (size, at) for size, _, at in lost):
        time.sleep(seconds)
    return step(training, batch)

def fatal_depart(comm, *seconds):
    if (comm.size, comm.rank, "at the end") in lost:
        os.kill(os.getpid(), signal.SIGKILL)
    return depart(comm, *seconds)

loop.Training.step, MpiComm.depart = fatal_step, fatal_depart
sys.exit(cli.main(sys.argv[1:]))
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
Alone: TypeAlias = Callable[[], AbstractContextManager[None]]
TRAIN = [
    "train", "--model", "mlp", "--dataset", "digits", "--batch-size", "24", "--micro-batches", "4",
    "--max-steps", "40", "--checkpoint-every", "10", "--on-lost-rank", "shrink",
]  # fmt: skip


def start_line(size: int) -> list[str]:
    """Return Open MPI's command line; skip where ranks cannot outlive others."""
    try:
        program = launcher.find_mpirun()
        openmpi = launcher.is_openmpi(program)
    except launcher.LaunchError as error:
        pytest.skip(str(error))
    if not openmpi:
        pytest.skip("MPICH's mpirun ends all ranks with one: needs Open MPI")
    return [program, "--with-ft", "ulfm", *launcher.start_line(program, True, size, None)[1:]]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load(max((folder / "checkpoints").glob("step-*.h5"))).tensors


@pytest.mark.parametrize("overlap", ["none", "poll", "thread"])
@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("{(3, 1, 15)}", [["1 of 3"]]),
        ("{(3, 0, 5)}", [["0 of 3"]]),  # before any checkpoint
        ("{(3, 0, 25), (2, 0, 35)}", [["0 of 3", "0 of 2"]]),
        # Together, or one by one.
        ("{(3, 1, 20), (3, 2, 20)}", [["1, 2 of 3"], ["1 of 3", "1 of 2"], ["2 of 3", "1 of 2"]]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_the_ranks_that_are_left_end_with_the_same_bits(
    lost: str, said: list[list[str]], overlap: str, tmp_path: Path, alone: Alone
) -> None:
    check(tmp_path, alone, said, lost, "0", "--overlap", overlap)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_the_watchdog_leaves_a_lost_rank_to_mpi(rank: int, tmp_path: Path, alone: Alone) -> None:
    """The others compute for longer than a job that does not shrink would last."""
    check(tmp_path, alone, [[f"{rank} of 3"]], f"{{(3, {rank}, 15)}}", str(2 * DYING))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("first", ["(3, 2, 15), ", ""])
@pytest.mark.slow
def test_a_loss_in_the_last_barrier_leaves_a_complete_run(
    first: str, rank: int, tmp_path: Path, alone: Alone
) -> None:
    """Also of a job that has shrunk before."""
    size = 2 if first else 3
    said = ["2 of 3"] * bool(first) + [f"{rank} of {size}"]
    check(tmp_path, alone, [said], f"{{{first}({size}, {rank}, 'at the end')}}", "0")
    assert (tmp_path / "run" / "result.json").exists()


def check(folder: Path, alone: Alone, said: list[list[str]], lost: str, *words: str) -> None:
    """Train with losses, which are told in one of some ways, and without; bits must not differ."""
    script, out, one = (folder / name for name in ("script.py", "run", "one"))
    script.write_text(LOSING)
    seconds, *options = words
    command = [sys.executable, str(script), lost, seconds, *TRAIN, *options, "--out", str(out)]
    with alone():
        job = subprocess.run(
            [*start_line(3), *command], env=launcher.environment(openmpi=True) | ONE_THREAD,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert job.returncode == 0, job.stderr
    told = re.findall(r": warning: lost rank (.*); going on with (\d+) rank", job.stderr)
    assert [text for text, _ in told] in said
    assert [int(left) for _, left in told][-1] == 3 - lost.count("(")
    undisturbed = [sys.executable, "-m", "tallygrad.trainer", *TRAIN, "--out", str(one)]
    subprocess.run(undisturbed, check=True, capture_output=True, timeout=60)
    expected, got = weights(one), weights(out)
    assert expected.keys() == got.keys()
    assert all(value.tobytes() == got[name].tobytes() for name, value in expected.items())
