"""Ranks that end alone, too early or too late: the others do not wait for them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

GUARDED = """
import sys
import time
from threading import Thread
import numpy as np
from tallygrad.trainer.distributed.failures import guard as module
from tallygrad.trainer.distributed.comm import connect
comm = connect()
module.FAREWELL = float(sys.argv[1])
with module.guard(comm):
    comm.barrier()
"""


@pytest.mark.parametrize("slow", [True, False])
def test_exit_with_status_0_waits_for_the_others_but_not_for_ever(mpirun: Run, slow: bool) -> None:
    seconds, rest = ("30", "time.sleep(0.3)") if slow else ("0.5", "comm.barrier()")
    result = mpirun(3, f"{GUARDED}    {rest} if comm.rank != 1 else sys.exit(0)", seconds)
    said = "tallygrad: error: rank 1 ended with status 0 while other ranks were at work"
    lines = [line for line in result.stderr.splitlines() if "tallygrad: error:" in line]
    assert lines == ([] if slow else [said])
    assert result.returncode == (0 if slow else 1)


def test_an_exception_in_a_thread_ends_the_job(mpirun: Run) -> None:
    body = """
    if comm.rank == 1:
        Thread(target=lambda: 1 / 0).start()
    comm.allreduce(np.zeros(3)) if comm.rank else time.sleep(60)
"""
    result = mpirun(2, GUARDED + body, "8", timeout=30)
    marked = [line for line in result.stderr.splitlines() if line.startswith("[rank 1] ")]
    assert result.returncode == 1 and marked[-1].endswith("ZeroDivisionError: division by zero")
    assert re.search(PLACE.format("starting, step 0", 14) + "ZeroDivisionError: d", result.stderr)


PLACE = r"(?m)^tallygrad: error: rank 1 on \S+ \(process \d+\) failed, {}, \S+/snippet\d*\.py:{}: "


@pytest.mark.parametrize(("fault", "place"), [
    ("comm.sendrecv(np.zeros(2), np.zeros(1), 9)", "in sendrecv of 16 bytes at step 7"),
    ("[][1]", "loading data, step 7"),
])  # fmt: skip
def test_a_line_tells_where_a_rank_has_failed(mpirun: Run, fault: str, place: str) -> None:
    body = f"""
    comm.journal.step = 7
    with comm.journal.doing("loading data"):
        comm.rank and {fault}
    comm.barrier()
"""
    result = mpirun(2, GUARDED + body, "8", timeout=30)
    assert result.returncode == 1
    assert re.search(PLACE.format(place, 15), result.stderr), result.stderr


UNFIT_RANK = """
import os, sys
if int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]) == 1:
    sys.modules[sys.argv[1]] = None
from tallygrad.trainer.cli import main
sys.exit(main(["train", "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize(
    ("absent", "status", "said"),
    [
        ("numpy", 1, "[rank 1] ModuleNotFoundError: "),
        pytest.param("mpi4py", 2, "tallygrad: error: MPI cannot be loaded", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_before_it_meets_the_others_ends_the_job(
    mpirun: Run, tmp_path: Path, absent: str, status: int, said: str
) -> None:
    result = mpirun(2, UNFIT_RANK, absent, str(tmp_path / "run"), timeout=30)
    assert said in result.stderr and result.returncode == status, result


def test_a_rank_ends_with_its_parent() -> None:
    """As a launcher's process on the rank's host, which may be killed without a last word."""
    rank = "from tallygrad.trainer.distributed.failures.orphan import watch_parent as w; w()"
    rank += "; import time; print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.kill()
        # Both streams end only when the rank has ended too.
        assert process.communicate(timeout=30)[1].endswith("launcher of this rank has ended\n")


@pytest.mark.parametrize(("name", "job", "ends"), [
    ("prted", "x", True), ("hydra_pmi_proxy", "x", True), ("prted", "", False), ("sh", "x", False),
])  # fmt: skip
def test_a_daemon_that_serves_one_job_ends_with_its_rank(
    tmp_path: Path, name: str, job: str, ends: bool
) -> None:
    daemon = tmp_path / name
    shutil.copy("/bin/sh", daemon)
    rank = "from tallygrad.trainer.distributed.failures import orphan; orphan.GRACE = 0.1; "
    rank += f"orphan.end_daemon({job!r})"
    # It outlives the rank, for long only where something is to kill it.
    script = f'"{sys.executable}" -c "{rank}"; sleep {20 if ends else 0.5}; exit 3'
    done = subprocess.run([daemon, "-c", script], timeout=60)
    assert done.returncode == (-signal.SIGKILL if ends else 3)
