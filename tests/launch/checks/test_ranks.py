"""Ranks that really start, and an mpirun that starts them wrongly or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tallygrad.launch import mpirun
from tallygrad.launch.checks import mpi, ranks
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Finding, Setting
from tallygrad.launch.checks.ranks import Place

Make = Callable[..., Setting]
Check = Callable[..., list[Finding]]


@pytest.fixture
def check(alone: Callable[[], AbstractContextManager[None]]) -> Check:
    """Return check(setting): the findings about ranks that start on this host."""
    try:
        mpirun.find_mpirun()
        mpi.library()
    except (mpirun.LaunchError, mpi.ProbeError) as error:
        pytest.skip(f"no MPI here: {error}")

    def run(job: Setting) -> list[Finding]:
        with alone():
            return list(ranks.check(job))

    return run


@pytest.mark.parametrize("count", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_start_and_meet(count: int, check: Check, setting: Make) -> None:
    cores = len(os.sched_getaffinity(0))
    first, second = check(setting(ranks=count, local_ranks=count, cores=cores))
    assert first.status == OK and first.seen.startswith(f"{count} started and met: {count} on ")
    assert (second.name, second.status) == ("binding", OK)


def wrong_mpirun(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another mpirun into this environment's place."""
    own = mpirun.find_mpirun()
    program = tmp_path / "bin" / "mpirun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {own} --version\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))


def test_an_mpirun_that_starts_singletons(
    check: Check, setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MPICH's does with Open MPI's library: each rank is 0 of 1."""
    body = 'until [ "$1" = "$PYTHON_HERE" ]; do shift; done; "$@" & "$@" & wait'
    monkeypatch.setenv("PYTHON_HERE", sys.executable)
    wrong_mpirun(body, tmp_path, monkeypatch)
    (found,) = check(setting(ranks=2, local_ranks=2))
    assert (found.name, found.status) == ("ranks", ERROR)
    assert found.seen.startswith("2 started, but MPI sees 1: each would train a model of its own")
    assert "tallygrad launch" in found.remedy


def test_an_mpirun_that_fails_or_hangs(
    check: Check, setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_mpirun('[ -z "$HANG" ] || exec sleep 600; echo "no slots" >&2; exit 7',
                 tmp_path, monkeypatch)  # fmt: skip
    (found,) = check(setting(ranks=2, local_ranks=2))
    assert found.status == ERROR and found.seen == "2 ranks did not meet: status 7: no slots"
    assert found.remedy.startswith(f"see what `{tmp_path}/bin/mpirun -n 2 ")
    assert found.remedy.endswith(" hostname` says")
    monkeypatch.setenv("HANG", "1")
    monkeypatch.setattr(ranks, "LIMIT", 0.1)
    monkeypatch.setattr(ranks, "EACH", 0.2)
    (found,) = check(setting(ranks=2, local_ranks=2))
    assert found.status == ERROR and found.seen == "2 ranks did not meet: no answer within 0.5 s"


def test_without_mpi_no_rank_starts(
    setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = ranks.check(setting())
    assert found.status == WARNING and found.remedy == mpi.INSTALL


@pytest.mark.parametrize(("library", "plugin"), [("MPICH", "pmi2"), ("Open MPI", "pmix")])
def test_tasks_of_srun_that_do_not_meet(
    library: str, plugin: str, setting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi, "library", lambda: mpi.Family(library, ()))
    monkeypatch.setattr(ranks, "MEET", "print('[1, [[[\"n1\", 2, [0, 1]], []]]]')")
    job = setting(launcher="srun", ranks=2)
    (found,) = ranks.gather(job, [])
    assert found.status == ERROR and found.remedy == f"srun --mpi={plugin}"
    assert list(ranks.gather(setting(launcher="srun", ranks=2, rank=1), [])) == []
    monkeypatch.setattr(ranks, "MEET", "raise RuntimeError('no PMI')")
    kept = Finding("mpi", OK, "here")
    first, found = ranks.gather(job, [kept])
    assert first == kept and found.status == ERROR and "RuntimeError: no PMI" in found.seen


def place(host: str, total: int, *cores: int) -> Place:
    return Place(host, total, cores)


HERE = os.uname().nodename
BINDINGS: list[tuple[list[Place], int, int, str, str]] = [
    ([place(HERE, 4, 0, 1, 2, 3)] * 2, 2, 4, OK, "2 ranks unbound, 4 cores used"),
    ([place(HERE, 4, 0, 1), place(HERE, 4, 2, 3)], 2, 4, OK,
     "2 ranks, each bound to 2 cores, 4 cores used"),
    ([place(HERE, 4, 0), place(HERE, 4, 1)], 1, 4, OK,
     "2 ranks, each bound to 1 core, 2 cores used"),
    ([place(HERE, 4, 0), place(HERE, 4, 1)], 2, 4, WARNING,
     "2 ranks, each bound to 1 core, 2 cores used, fewer than its 2 threads"),
    ([place(HERE, 4, 0)] * 2, 1, 4, WARNING, "2 ranks unbound, 1 core used: ranks share a core"),
    ([place(HERE, 2, 0, 1)] * 4, 1, 2, OK, "4 ranks unbound, 2 cores used"),
    ([place("elsewhere", 8, 0), place("elsewhere", 8, 0)], 4, 4, WARNING,
     "2 ranks unbound, 1 core used: ranks share a core"),
]  # fmt: skip


@pytest.mark.parametrize(("places", "threads", "cores", "status", "seen"), BINDINGS)
def test_binding(places: list[Place], threads: int, cores: int, status: str, seen: str) -> None:
    (found,) = ranks.check_binding(places, Setting(threads=threads, cores=cores))
    assert (found.status, found.seen, found.host) == (status, seen, places[0].host)
    assert bool(found.remedy) == (status != OK)


@pytest.mark.parametrize(
    ("launcher", "env", "remedy"),
    [
        ("", "", "tallygrad launch --bind none"),
        ("srun", "", "srun --cpus-per-task=2 --cpu-bind=cores"),
        ("mpirun", "OMPI_COMM_WORLD_SIZE", "mpirun --map-by slot:PE=2 --bind-to core"),
        ("mpirun", "PMI_SIZE", "mpiexec -bind-to core:2"),
    ],
)
def test_each_launcher_has_its_own_way_to_bind(
    launcher: str, env: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    if env:
        monkeypatch.setenv(env, "2")
    job = Setting(launcher=launcher, threads=2, cores=4, ranks=2, local_ranks=2)
    (found,) = ranks.check_binding([place(HERE, 4, 0), place(HERE, 4, 1)], job)
    assert found.remedy.startswith(remedy)


def test_hosts_have_findings_of_their_own() -> None:
    places = [place("a", 2, 0), place("b", 2, 0), place("a", 2, 1)]
    found = list(ranks.check_binding(places, Setting()))
    assert [(one.host, one.seen.partition(",")[0]) for one in found] == [
        ("a", "2 ranks"), ("b", "1 rank unbound"),
    ]  # fmt: skip
