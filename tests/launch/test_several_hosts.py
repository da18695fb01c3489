"""`tallygrad launch` over several hosts, which are network namespaces of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.address import own_address

# Stands in for the trainer: ranks meet, and tell their hosts and cores.
TRAINER = """
import os, socket
from mpi4py import MPI
world = MPI.COMM_WORLD
cores = sorted(os.sched_getaffinity(0))
places = world.gather((socket.gethostname(), cores))
if world.rank == 0:
    for rank, (host, cores) in enumerate(places):
        print(rank, world.size, host, *cores)
"""
CALL = "import sys; from tallygrad.launch import cli; sys.exit(cli.run(sys.argv[1:]))"


@pytest.fixture
def launch(
    fake_trainer: Callable[[str], str], alone: Callable[[], AbstractContextManager[None]]
) -> Any:
    """Return launch(options, env): the lines that rank 0 of the fake trainer prints."""
    path = fake_trainer(TRAINER)

    def run(*options: str, env: dict[str, str]) -> list[str]:
        command = [sys.executable, "-c", CALL, *options, "--", "train"]
        with alone():
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": path, **env},
                capture_output=True,
                text=True,
                timeout=120,
            )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("form", ["{} slots={}", "{}:{}"])
def test_ranks_start_on_the_hosts_of_a_file(
    form: str, launch: Any, make_hosts: Callable[[int], Any], tmp_path: Path
) -> None:
    """Both forms with either MPI; `-localhost` for MPICH, whose hosts do not know this one."""
    hosts = make_hosts(3)
    path = tmp_path / "hostfile"
    lines = [form.format(name, slots) for name, slots in (("n1", 2), ("n2", 1), ("n3", 1))]
    path.write_text("\n".join(lines))
    before = hosts.sent("n3")
    said = launch("--hostfile", str(path), env=dict(hosts.environment))
    assert [line.split()[:3] for line in said] == [
        ["0", "4", "n1"], ["1", "4", "n1"], ["2", "4", "n2"], ["3", "4", "n3"],
    ]  # fmt: skip
    assert hosts.sent("n3") - before > 1000  # they met over the wire


def test_fewer_ranks_than_slots(launch: Any, make_hosts: Callable[[int], Any]) -> None:
    hosts = make_hosts(2)
    said = launch("-n", "2", "--hosts", "n1:1,n2:3", env=dict(hosts.environment))
    assert [line.split()[2] for line in said] == ["n1", "n2"]


def test_binding(launch: Any) -> None:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip("one core: every binding is the same")
    for binding, each in [("core", 1), ("none", cores)]:
        said = launch("-n", "3", "--bind", binding, env={})
        assert [len(line.split()) - 3 for line in said] == [each] * 3, (binding, said)
    # A socket may hold all cores, or some: only that it is accepted is the same everywhere.
    assert len(launch("-n", "2", "--bind", "socket", env={})) == 2


def test_the_address_that_others_reach(make_hosts: Callable[[int], Any]) -> None:
    hosts = make_hosts(1)
    other = hosts.head.rpartition(".")[0] + ".1"
    assert own_address([other], {}) == hosts.head
    assert own_address(["no-such-host.invalid", f"me@{other}"], {}) == hosts.head
    assert own_address([other], {"TALLYGRAD_HEAD": "10.1.2.3"}) == "10.1.2.3"
    assert own_address(["127.0.0.1", "localhost", hosts.head], {}) is None
