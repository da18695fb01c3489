"""Jobs over hosts that fail: what ends, what is left, what goes on, and with which bits."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import mpirun

pytestmark = pytest.mark.hosts
GRADIENTS = 1_076_264  # bytes of the gradients of mlp
STEPS = 12
LONG = 240.0  # seconds; only a net
DELAY, LOSS = 0.02, 0.02  # seconds, and the share of frames, of a slow link
CONNECT = """
import socket, sys, time
begun = time.monotonic()
socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(time.monotonic() - begun)
"""


@pytest.fixture(scope="module")
def package(bench_package: Any) -> Any:
    import_module("bench.faults")
    return bench_package


@pytest.fixture(scope="module")
def bench(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        pytest.skip(str(error))
    if reason := package.hosts.why_not():
        pytest.skip(reason)
    made = package.trial.Bench(tmp_path_factory.mktemp("faults"), limit=10.0, steps=STEPS)
    made.prepare()
    return made


@pytest.fixture(autouse=True)
def undisturbed(alone: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    with alone():
        yield


@pytest.fixture
def pair(package: Any, bench: Any, tmp_path: Path) -> Iterator[Any]:
    with package.hosts.Hosts(2, tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture
def slow_pair(package: Any, bench: Any, tmp_path: Path) -> Iterator[Any]:
    """Two hosts, the second of which has a slow link."""
    slow = {"n2": (DELAY, LOSS)}
    with package.hosts.Hosts(2, tmp_path / "hosts", slow=slow) as hosts:
        yield hosts


def end(job: subprocess.Popen[str]) -> str:
    """Return what a job says until it ends."""
    try:
        return job.communicate(timeout=LONG)[1]
    except BaseException:
        job.kill()
        raise


def until(holds: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + LONG
    while not holds() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert holds()


def ended(process: int) -> bool:
    """Tell whether a process has ended, if only its parent has not asked yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_gradients_cross_the_wire(package: Any, bench: Any, pair: Any, tmp_path: Path) -> None:
    before = pair.sent("n1"), pair.sent("n2")
    where = ["-n", "2", "--hosts", "n1:1,n2:1"]
    job = package.trial.start("run", where, bench.command(tmp_path / "run"), **pair.environment)
    text = end(job)
    assert job.returncode == 0, text
    for name, sent in zip(pair.names, before, strict=True):
        assert pair.sent(name) - sent >= STEPS * GRADIENTS
    assert package.trial.weights(tmp_path / "run", STEPS) == bench.expected


@pytest.mark.parametrize("name", ["link down", "daemon of a host killed"])
def test_the_loss_of_a_host_ends_the_job(package: Any, bench: Any, name: str) -> None:
    seen = bench.trial(name, package.faults.FAULTS[name])
    assert "rank 1 on n2 (process " in seen.message, seen.stderr
    if name == "link down":
        assert re.search(r", (trainer/loop|components/passes)\.py:\d", seen.message)
    assert not package.faults.failures([seen])


def test_a_slow_link_delays_both_ways(slow_pair: Any) -> None:
    with socket.create_server((slow_pair.head, 0)) as server:
        command = [sys.executable, "-c", CONNECT, slow_pair.head, str(server.getsockname()[1])]
        took = float(subprocess.check_output([*slow_pair.inside("n2"), *command], text=True))
    assert took >= 2 * DELAY


def test_a_slow_link_changes_no_bits(
    package: Any, bench: Any, slow_pair: Any, tmp_path: Path
) -> None:
    """A small model, as TCP comes to 0.3 MB/s: frames are lost, and the watchdog keeps still."""
    small = ["--model", "lenet5"]
    undisturbed = package.trial.start("run", ["-n", "1"], bench.command(tmp_path / "one", *small))
    text = end(undisturbed)
    assert undisturbed.returncode == 0, text
    where = ["-n", "2", "--hosts", "n1:1,n2:1"]
    command = bench.command(tmp_path / "two", *small, limit=bench.limit)
    job = package.trial.start("run", where, command, **slow_pair.environment)
    text = end(job)
    assert job.returncode == 0, text
    assert "watchdog" not in text and not [*(tmp_path / "two").glob("watchdog/*")]
    assert slow_pair.lost("n2") > 0
    found, expected = (package.trial.weights(tmp_path / name, STEPS) for name in ("two", "one"))
    assert found == expected


def test_a_host_that_a_slow_link_loses_is_named(
    package: Any, bench: Any, slow_pair: Any, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    env = {"TALLYGRAD_FAULT": "outside", "TALLYGRAD_FAULT_MARK": str(mark)}
    command = bench.command(tmp_path / "run", "--model", "lenet5", limit=bench.limit)
    where = ["-n", "2", "--hosts", "n1:1,n2:1"]
    job = package.trial.start("run", where, command, **slow_pair.environment, **env)
    until(mark.exists, job)
    slow_pair.cut("n2")
    text = end(job)
    assert job.returncode != 0
    assert "rank 1 on n2 (process " in text, text


def supervised(
    package: Any, bench: Any, hosts: Any, out: Path, mark: Path, *more: str
) -> subprocess.Popen[str]:
    """Start a supervised run over both hosts whose first attempt goes slowly from a mark on."""
    flags = ["-n", "2", "--hosts", "n1:1,n2:1", "--backoff", "0.1", "--retries", "4"]
    broken = {"TALLYGRAD_FAULT": "outside", "TALLYGRAD_FAULT_MARK": str(mark)}
    command = bench.command(out, *more, limit=bench.limit)
    env = {**hosts.environment, **broken, package.trial.TRIAL: out.name}
    job: subprocess.Popen[str] = package.trial.start("run_supervised", flags, command, **env)
    until(mark.exists, job)
    return job


def test_a_host_is_gone_with_its_memory(
    package: Any, bench: Any, pair: Any, tmp_path: Path
) -> None:
    """No checkpoint is on disk: the copy in the memory of the other host is all that is left."""
    out = tmp_path / "gone"
    copies = ["--memory-copy-every", "1", "--checkpoint-every", "1000"]
    job = supervised(package, bench, pair, out, tmp_path / "mark", *copies)
    pair.stop("n1")
    text = end(job)
    assert job.returncode == 0, text
    assert "supervise: without n1, which does not answer" in text
    assert "running on 1 ranks instead of 2" in text
    assert "comes from the memory of n2" in text
    assert package.trial.weights(out, STEPS) == bench.expected
    assert not package.trial.left_of(out.name)
    record = json.loads((out / "copies.json").read_text())
    assert record["left"] == ["n1"]
    assert f"copies of its state may stay in /dev/shm/{record['name']} of n1" in text


def test_a_zombie_cannot_write(package: Any, bench: Any, pair: Any, tmp_path: Path) -> None:
    """Rank 0 is stopped on a host that is cut off; the others go on; then it wakes up."""
    out = tmp_path / "zombie"
    job = supervised(package, bench, pair, out, tmp_path / "mark")
    zombies = [p for p in package.trial.left_of(out.name) if p in pair.processes("n1")]
    for process in zombies:
        os.kill(process, signal.SIGSTOP)
    pair.cut("n1")
    text = end(job)
    assert job.returncode == 0, text
    assert "supervise: without n1, which does not answer" in text
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert zombies and not all(map(ended, zombies))
    pair.join("n1")
    for process in zombies:
        with suppress(OSError):
            os.kill(process, signal.SIGCONT)
    limit = time.monotonic() + LONG
    while not all(map(ended, zombies)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert all(map(ended, zombies))
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    stacks = out / "watchdog"  # which even a zombie may write
    assert {p: t for p, t in after.items() if p.parent != stacks} == {
        p: t for p, t in before.items() if p.parent != stacks
    }
    assert package.trial.weights(out, STEPS) == bench.expected
