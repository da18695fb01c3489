"""Hostfiles of both MPIs and of schedulers, and lists of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallygrad.launch import cli, hostfile
from tallygrad.launch.hostfile import Host, parse_hosts, read_hostfile
from tallygrad.launch.mpirun import LaunchError

FILES = [
    ("a slots=4\nb slots=2\n", "a:4,b:2"),
    ("a:4\nb:2", "a:4,b:2"),
    (
        "# two nodes\n\n  a slots=4 # first\n\tb  max_slots=8 slots=2\nc max-slots=3\n",
        "a:4,b:2,c:1",
    ),
    ("a\na\nb\na\n", "a:3,b:1"),  # PBS, LSF: a line for each rank
    ("a.example.org:2\r\nme@10.0.0.1 slots=3\r\n", "a.example.org:2,me@10.0.0.1:3"),
    ("b:1\na:1\nb slots=2\n", "b:3,a:1"),
]


@pytest.mark.parametrize(("text", "hosts"), FILES)
def test_hostfiles(text: str, hosts: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(text.encode())
    assert ",".join(map(str, read_hostfile(path))) == hosts
    options, _ = cli.parse(["--hostfile", str(path), "--", "train"])
    assert options.hosts == hosts
    assert options.ranks == sum(host.slots for host in parse_hosts(hosts))
    assert cli.parse(["-n", "2", "--hostfile", str(path), "--", "train"])[0].ranks == 2


WRONG = [
    ("a slots=0", 1),
    ("a\n\n# x\nb slots=two", 4),
    ("a:0", 1),
    ("a slots=2 slots=3", 1),
    ("a:2 slots=2", 1),
    ("a slots = 2", 1),
    ("-oProxyCommand=x slots=2", 1),
    ("a b", 1),
    ("a:2\nb,c", 2),
    ("a slots=99999999", 1),
    ("n\N{LATIN SMALL LETTER O WITH DIAERESIS}de", 1),
]


@pytest.mark.parametrize(("text", "line"), WRONG)
def test_an_error_names_file_and_line(text: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(text.encode())
    with pytest.raises(LaunchError) as error:
        read_hostfile(path)
    said = text.splitlines()[line - 1]
    assert str(error.value) == (
        f"{path}:{line}: expected HOST, HOST:N or HOST slots=N, got {said!r}"
    )


def test_files_that_are_no_hostfiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    for data, part in [(b"# none\n", "at least one host"), (b"\xff\xfe", "in UTF-8")]:
        path.write_bytes(data)
        with pytest.raises(LaunchError, match=part):
            read_hostfile(path)
    with pytest.raises(LaunchError, match="Is a directory"):
        read_hostfile(tmp_path)
    monkeypatch.setattr(hostfile, "LONGEST", 9)
    path.write_text("a slots=2\n")
    with pytest.raises(LaunchError, match="got more"):
        read_hostfile(path)


def test_lists_of_hosts() -> None:
    assert parse_hosts("a,me@b:12") == (Host("a", 1), Host("me@b", 12))
    with pytest.raises(ValueError, match=r"got 'b:0'"):
        parse_hosts("a,b:0")
