"""Copies in the memory of hosts that a run has lost, which its launcher removes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tallygrad.launch import copies, hosts
from tallygrad.launch.hostfile import parse_hosts

NAME = f"tallygrad-{'0f' * 16}"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which an agent notes what hosts are to do. `dead` does not answer; the others
    greet, and tell the names by which they know themselves."""
    notes, agent = tmp_path / "notes", tmp_path / "agent"
    agent.write_text(f"""#!/bin/sh
[ $1 = dead ] && exit 255
echo $* >> {notes}
echo welcome; echo ${{1#*@}} | sed 's/10.0.0.1/n3/; s/n4/n4.cluster/'
""")
    agent.chmod(0o755)
    monkeypatch.setattr(hosts, "agent", lambda: [str(agent)])
    notes.touch()
    return notes


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copies in a folder that stands in for this host's memory."""
    monkeypatch.setattr(copies, "MEMORY", tmp_path / "memory")
    path: Path = tmp_path / "memory" / NAME
    path.mkdir(parents=True)
    return path


def record(folder: Path, **content: object) -> Path:
    path = folder / copies.RECORD
    path.write_text(json.dumps(content))
    return path


def warning(folder: Path, memory: Path, host: str) -> str:
    text = f"copies of its state may stay in {memory} of {host}"
    return f"tallygrad: warning: {folder}: {text}\n"


@pytest.mark.parametrize(("left", "named", "asked"), [
    (["n2"], "n1:1,me@n2:4", "me@n2"),
    (["n4.cluster"], "n1:1,n4:4", "n4"),
    (["n3"], "localhost:1,10.0.0.1:4", "10.0.0.1"),  # another name here: all are asked
])  # fmt: skip
def test_what_is_left_on_hosts_that_answer_goes(
    said: Path, memory: Path, tmp_path: Path, left: list[str], named: str, asked: str
) -> None:
    path = record(tmp_path, name=NAME, left=left)
    copies.remove_left(tmp_path, parse_hosts(named))
    assert said.read_text() == f"{asked} rm -rf {memory} && uname -n\n"
    assert not path.exists() and memory.exists()


def test_a_host_that_does_not_answer_stays_on_record(
    said: Path, memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, name=NAME, left=["dead", "n1", "n2"])
    copies.remove_left(tmp_path, parse_hosts("n1:1,dead:4,n2:1"))
    assert json.loads(path.read_text()) == {"name": NAME, "left": ["dead"]}
    assert capsys.readouterr().err == warning(tmp_path, memory, "dead")
    assert sorted(p.name for p in tmp_path.iterdir() if "copies" in p.name) == [path.name]


def test_a_lost_host_that_is_not_named_stays_on_record(
    said: Path, memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, name=NAME, left=["n1"])
    copies.remove_left(tmp_path, parse_hosts("dead:2,n2:4"))
    assert json.loads(path.read_text()) == {"name": NAME, "left": ["n1"]}
    assert capsys.readouterr().err == warning(tmp_path, memory, "n1")


def test_this_host_needs_no_agent(said: Path, memory: Path, tmp_path: Path) -> None:
    own = socket.gethostname()
    path = record(tmp_path, name=NAME, left=[own])
    copies.remove_left(tmp_path, parse_hosts(f"n1:1,{own}:1"))
    assert not path.exists() and not memory.exists() and not said.read_text()


def test_without_an_agent_other_hosts_stay_on_record(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "agent", lambda: [])
    path = record(tmp_path, name=NAME, left=["n1", socket.gethostname()])
    copies.remove_left(tmp_path, parse_hosts("n1:1"))
    assert json.loads(path.read_text())["left"] == ["n1"] and not memory.exists()


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
