"""What a job leaves on a host: which segments of shared memory are its own, and may go."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tallygrad.launch import hosts, reap
from tallygrad.launch.hostfile import Host

JOB = "a job that has ended"
HOLDING = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
print("holds", flush=True)
sys.stdin.read()
"""
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return make(name): a segment in a folder that stands in for the host's memory."""
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(reap, "MEMORY", memory)

    def segment(name: str) -> Path:
        path = memory / name
        path.write_bytes(bytes(mmap.PAGESIZE))
        return path

    return segment


@pytest.mark.parametrize("name", ["mpich_shm_1f_0", "sm_segment.n1.0.2c8b0000.1"])
def test_what_is_left_goes(make: Make, name: str) -> None:
    left, other = make(name), make(f"{name}0")
    reap.clean(JOB, [name, "mpich_shm_gone_0"])
    assert not left.exists() and other.exists()


def test_what_another_process_uses_stays(make: Make) -> None:
    path = make("mpich_shm_2_0")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout and holder.stdout.readline() == b"holds\n"
        reap.clean(JOB, [path.name])
        assert path.exists()
    reap.clean(JOB, [path.name])
    assert not path.exists()


def test_only_segments_of_an_mpi_in_this_folder_go(make: Make, tmp_path: Path) -> None:
    other, outside = make("somebody-s"), tmp_path / "mpich_shm_3_0"
    outside.touch()
    (other.parent / "mpich_shm_").mkdir()
    reap.clean(JOB, [other.name, "../mpich_shm_3_0", "mpich_shm_/../../mpich_shm_3_0", ""])
    assert other.exists() and outside.exists()


def test_what_another_user_owns_stays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("mpich_shm_4_0")
    monkeypatch.setattr(reap.os, "geteuid", lambda: path.stat().st_uid + 1)
    reap.clean(JOB, [path.name])
    assert path.exists()


def test_a_process_knows_its_segments(make: Make) -> None:
    with (
        make("mpich_shm_5_0").open("r+b") as one,
        make("else").open("r+b") as other,
        mmap.mmap(one.fileno(), 0),
        mmap.mmap(other.fileno(), 0),
    ):
        assert reap.segments() == {"mpich_shm_5_0"}
    assert reap.segments() == set()


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_hosts_are_told_any_number_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """By a command that is never too long; with few names, an agent need not pass input on."""
    words, text = tmp_path / "words", tmp_path / "input"
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\nshift\necho "$*" > {words}\ncat > {text}\n')
    agent.chmod(0o755)
    monkeypatch.setattr(hosts, "agent", lambda: [str(agent)])
    names = [f"sm_segment.n{i}.0.2c8b0000.1" for i in range(count)]
    hosts.reap_on([Host("n1", 1)], "job", names)
    told = words.read_text().split()[5:]
    assert (told, text.read_text().split()) == (([reap.READ], names) if count > 1 else (names, []))


@pytest.mark.parametrize("reads", [True, False])
def test_a_job_that_has_ended_is_cleaned_up_after_by_name(reads: bool) -> None:
    """As on another host: the command itself, on the memory of this one."""
    left = Path("/dev/shm", f"mpich_shm_test_{os.getpid()}")
    left.touch()
    names = [left.name, "mpich_shm_gone_0"]
    words = [sys.executable, "-P", "-m", reap.__name__, JOB, *([reap.READ] if reads else names)]
    subprocess.run(words, input="\n".join(names) if reads else "", text=True, check=True)
    assert not left.exists()
