"""Copies in the memory of hosts that a run has lost, which its launcher removes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallygrad.launch import copies, hosts
from tallygrad.launch.hostfile import parse_hosts

NAME = f"tallygrad-{'0f' * 16}"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which an agent notes what hosts are to do; the host `dead` does not answer."""
    notes, agent = tmp_path / "notes", tmp_path / "agent"
    agent.write_text(f"#!/bin/sh\n[ $1 = dead ] && exit 255\necho $* >> {notes}\n")
    agent.chmod(0o755)
    monkeypatch.setattr(hosts, "agent", lambda: [str(agent)])
    notes.touch()
    return notes


def record(folder: Path, **content: object) -> Path:
    path = folder / copies.RECORD
    path.write_text(json.dumps(content))
    return path


def test_what_is_left_on_hosts_that_answer_goes(said: Path, tmp_path: Path) -> None:
    path = record(tmp_path, name=NAME, left=["n2"])
    copies.remove_left(tmp_path, parse_hosts("n1:1,n2:4"))
    lines = sorted(said.read_text().splitlines())
    assert lines == [f"n{i} rm -rf /dev/shm/{NAME}" for i in (1, 2)]
    assert not path.exists()


def test_a_host_that_does_not_answer_is_named(
    said: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, name=NAME, left=["n1", "n2"])
    copies.remove_left(tmp_path, parse_hosts("n1:1,dead:4"))
    assert path.exists() and said.read_text() == f"n1 rm -rf /dev/shm/{NAME}\n"
    warning = f"warning: {tmp_path}: copies of its state may stay in /dev/shm/{NAME} of dead\n"
    assert capsys.readouterr().err == f"tallygrad: {warning}"


@pytest.mark.parametrize("content", [
    {"name": NAME, "step": 4, "hosts": ["n1"]},  # a run that may go on
    {"name": NAME, "left": []}, {"name": f"{NAME};ls", "left": ["n1"]},
    {"name": f"{NAME}/..", "left": ["n1"]}, {"left": ["n1"]},
])  # fmt: skip
def test_nothing_else_is_touched(said: Path, tmp_path: Path, content: dict[str, object]) -> None:
    path = record(tmp_path, **content)
    copies.remove_left(tmp_path, parse_hosts("n1:1"))
    assert path.exists() and not said.read_text()


def test_a_run_without_copies_is_left_alone(said: Path, tmp_path: Path) -> None:
    copies.remove_left(tmp_path, parse_hosts("n1:1"))
    (tmp_path / copies.RECORD).write_text("[")
    copies.remove_left(tmp_path, parse_hosts("n1:1"))
    assert not said.read_text()
