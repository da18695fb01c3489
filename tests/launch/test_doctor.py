"""`tallygrad doctor`: its report alone, under a launcher and over several hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import doctor, mpirun
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Finding, Setting
from tallygrad.trainer import cli

ALONE = ["mpi", "mpi-wheels", "threads", "instructions", "backend", "blas", "hdf5-locks",
         "shared-memory", "disk-speed", "disk-space", "network", "ranks", "binding"]  # fmt: skip
Doctor = Callable[..., "tuple[int, list[dict[str, Any]]]"]


@pytest.fixture
def examine(alone: Callable[[], AbstractContextManager[None]], tmp_path: Path) -> Doctor:
    """Return examine(*options, env={}): status and findings of `tallygrad doctor --json`."""
    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        pytest.skip(str(error))

    def run(*options: str, env: dict[str, str] | None = None) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "tallygrad.trainer", "doctor", "--json", *options]
        with alone():
            done = subprocess.run(
                command, env={**os.environ, **(env or {})}, cwd=tmp_path,
                capture_output=True, text=True, timeout=240,
            )  # fmt: skip
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


def test_a_report_of_this_host(examine: Doctor, tmp_path: Path) -> None:
    status, found = examine("--out", str(tmp_path / "run"))
    assert [one["name"] for one in found if one["name"] != "mpi"] == ALONE[1:]
    assert found[0]["name"] == "mpi"
    for one in found:
        assert set(one) == {"name", "status", "seen", "remedy", "host", "seconds"}
        assert one["status"] in (OK, WARNING, ERROR) and one["seen"] and one["seconds"] >= 0
        assert bool(one["remedy"]) == (one["status"] != OK), one
    assert status == (ERROR in {one["status"] for one in found})
    (meeting,) = (one for one in found if one["name"] == "ranks")
    assert meeting["status"] == OK and meeting["seen"].startswith("2 started and met")
    assert not (tmp_path / "run").exists()


def test_an_error_is_the_exit_status(examine: Doctor) -> None:
    status, found = examine("--out", "/proc/x", "-n", "1")
    assert status == 1
    assert {one["name"] for one in found if one["status"] == ERROR} >= {"disk-speed", "hdf5-locks"}


def test_threads_are_those_that_a_training_would_use(examine: Doctor) -> None:
    """Also the number that one asks for."""
    _, found = examine("-n", "1", "--threads", "1000")
    (threads,) = (one for one in found if one["name"] == "threads")
    assert threads["status"] == WARNING and threads["seen"].startswith("1 x 1000 threads on ")
    assert "OMP_NUM_THREADS" in threads["remedy"]


def test_under_a_launcher_there_is_one_report(mpirun: Callable[..., Any]) -> None:
    done = mpirun(3, ["-m", "tallygrad.trainer", "doctor"], timeout=240)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    names = [line.split()[1] for line in lines[:-1]]
    assert names == ALONE, done.stdout
    assert "library " in lines[0] and lines[0].endswith("; ranks started by mpirun")
    assert "3 started and met: 3 on " in done.stdout
    assert lines[-1].startswith("13 findings: ")


def test_tasks_of_srun_without_pmi_are_an_error(examine: Doctor) -> None:
    """The first of two tasks that each are alone, as `srun --mpi=none` starts them."""
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}  # fmt: skip
    status, found = examine(env=step)
    assert status == 1 and found[-1]["name"] == "ranks" and found[-1]["status"] == ERROR
    assert found[-1]["seen"].startswith("2 started, but MPI sees 1")
    assert found[-1]["remedy"].startswith("srun --mpi=pm")


def test_several_hosts_examine_themselves(
    examine: Doctor, make_hosts: Callable[[int], Any], tmp_path: Path
) -> None:
    hosts = make_hosts(2)
    path = tmp_path / "hostfile"
    path.write_text("n1 slots=2\nn2:1\n")
    status, found = examine("--hostfile", str(path), env=dict(hosts.environment))
    assert status == (ERROR in {one["status"] for one in found})
    seen = {(one["host"], one["name"]): one["seen"] for one in found}
    here = os.uname().nodename
    assert {(here, name) for name in ("mpi", "ssh", "software", "clock")} <= set(seen)
    assert {(host, name) for host in ("n1", "n2") for name in ALONE if name != "ranks"} <= set(seen)
    assert seen["n1", "ranks"] == "3 started and met: 2 on n1, 1 on n2"
    assert (here, "disk-speed") not in seen  # it takes no rank
    net = hosts.head.rpartition(".")[0]
    assert f"eth0 {net}.2/24" in seen["n2", "network"]
    assert seen["n2", "threads"].startswith("1 x ")


def test_ranks_do_not_start_on_hosts_that_cannot_be_reached(
    examine: Doctor, make_hosts: Callable[[int], Any]
) -> None:
    hosts = make_hosts(1)
    status, found = examine("--hosts", "n1,n9", env=dict(hosts.environment))
    assert status == 1
    (wrong,) = (one for one in found if one["status"] == ERROR)
    assert wrong["name"] == "ssh" and wrong["seen"].startswith("n9: ")
    assert found[-1]["seen"] == "not started, because a host cannot be reached"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "-1"], "-n: expected 1 to 1048576, got -1"),
        (["--threads", "2000"], "--threads: expected 1 to 1024, got 2000"),
        (["--hosts", "a,-b"], "--hosts: expected HOST or HOST:N, separated by commas, got '-b'"),
        (["--hostfile", "nowhere"], "nowhere: expected a readable hostfile"),
        (["--hosts", "a", "--hostfile", "b"], "not allowed with"),
        (["--host", "a"], "unknown option --host"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setting: Setting) -> Iterator[Finding]:
        yield Finding("first", OK, "fine")
        raise ZeroDivisionError("oops")

    def good(setting: Setting) -> Iterator[Finding]:
        yield Finding("last", ERROR, "bad", "mend it")

    monkeypatch.setattr(doctor, "CHECKS", {"broken": broken, "good": good})
    monkeypatch.setattr(doctor.ranks, "check", lambda setting: iter(()))
    found = list(doctor.examine(Setting()))
    assert [(one.name, one.status) for one in found] == [
        ("first", OK), ("broken", WARNING), ("last", ERROR),
    ]  # fmt: skip
    assert "ZeroDivisionError: oops" in found[1].seen
    assert doctor.status(found) == 1 and doctor.status(found[:2]) == 0
    assert doctor.summary(found).startswith("3 findings: 1 error, 1 warning; ")


def test_lines_of_a_report() -> None:
    there = Finding("threads", WARNING, "many", "fewer", host="n9")
    assert list(doctor.as_text([Finding("mpi", OK, "MPICH"), there])) == [
        "ok       mpi            MPICH",
        "warning  threads        n9: many",
        "                        remedy: fewer",
    ]
