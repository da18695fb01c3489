"""Other hosts: an ssh that fails in its ways, and hosts in namespaces that differ from this one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import hosts
from tallygrad.launch.checks import remote
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Finding, Setting
from tallygrad.launch.hostfile import Host

Make = Callable[..., Setting]
HOSTS = (Host("n1"), Host("n2"))


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return ssh(body): put a program of that name first on PATH; its words go to the file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for name in ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent",
                 "HYDRA_LAUNCHER", "HYDRA_LAUNCHER_EXEC"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)

    def write(body: str) -> Path:
        program, log = tools / "ssh", tmp_path / "words"
        program.write_text(f'#!/bin/bash\necho "$*" >>"{log}"\n{body}\n')
        program.chmod(0o755)
        return log

    return write


def look(setting: Make, **fields: Any) -> list[Finding]:
    return list(
        remote.check(setting(**{"hosts": (Host("n1"),), "env": dict(os.environ), **fields}))
    )


FAILURES = [
    ("echo 'me@n1: Permission denied (publickey,password).' >&2; exit 255",
     "Permission denied", "ssh-copy-id n1, with a key without passphrase or an ssh-agent"),
    ("echo 'Host key verification failed.' >&2; exit 255",
     "Host key verification failed", "ssh-keyscan n1 >> ~/.ssh/known_hosts"),
    ("echo 'ssh: connect to host n1 port 22: No route to host' >&2; exit 255",
     "No route to host", "try ssh -o BatchMode=yes -o ConnectTimeout=10 n1 hostname; it must"),
    ("echo 'Welcome to n1!'; exit 0", "status 0", "try ssh "),
    (f"echo 'sh: 1: exec: {sys.executable}: not found' >&2; exit 127",
     "not found", f"install this environment on n1 too, at the path {sys.prefix}"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "seen", "remedy"), FAILURES)
def test_a_host_that_cannot_be_reached(
    body: str, seen: str, remedy: str, setting: Make, ssh: Callable[..., Path]
) -> None:
    log = ssh(body)
    (found,) = look(setting)
    assert (found.name, found.status) == ("ssh", ERROR)
    assert found.seen.startswith("n1: ") and seen in found.seen
    assert found.remedy.startswith(remedy)
    assert log.read_text().startswith("-o BatchMode=yes -o ConnectTimeout=10 n1 exec ")


def test_a_host_that_does_not_answer(
    setting: Make, ssh: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LIMIT", 0.5)
    ssh("exec sleep 600")
    (found,) = look(setting)
    assert found.status == ERROR and found.seen == "n1: no answer within 0.5 s"


def test_one_of_two_hosts_fails(setting: Make, ssh: Callable[..., Path]) -> None:
    ssh('shift 4; [ "$1" = n2 ] || { echo down >&2; exit 255; }; shift; exec sh -c "$*"')
    found = look(setting, hosts=HOSTS)
    assert [(one.name, one.status) for one in found] == [
        ("ssh", ERROR), ("software", OK), ("run-folder", OK), ("clock", OK),
    ]  # fmt: skip
    assert found[0].seen == "n1: down"


def test_no_ssh_at_all(setting: Make, tmp_path: Path, ssh: Callable[..., Path],
                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = look(setting)
    assert found.status == ERROR and found.remedy.startswith("install ssh on this host")


def test_the_real_ssh_is_refused(setting: Make) -> None:
    if not shutil.which("ssh"):
        pytest.skip("no ssh")
    (found,) = look(setting, hosts=(Host("127.0.0.99"),))
    assert found.status == ERROR and found.seen.startswith("127.0.0.99: "), found
    assert found.remedy


def test_this_host_needs_no_ssh(setting: Make, ssh: Callable[..., Path]) -> None:
    log = ssh("exit 1")
    assert look(setting, hosts=(Host("localhost", 4), Host("me@127.0.0.1"))) == []
    assert look(setting, hosts=()) == [] and not log.exists()


@pytest.mark.parametrize(
    ("openmpi", "env", "line"),
    [
        (True, {}, ["ssh", *hosts.PLAIN]),
        (True, {"PRTE_MCA_plm_ssh_agent": "/bin/sh -x"}, ["/bin/sh", "-x"]),
        (True, {"PRTE_MCA_plm_ssh_agent": "no-such-agent : sh"}, ["sh"]),
        (True, {"OMPI_MCA_plm_rsh_agent": "no-such-agent"}, ["no-such-agent"]),
        (True, {"HYDRA_LAUNCHER_EXEC": "/bin/sh"}, ["ssh", *hosts.PLAIN]),
        (False, {}, ["ssh", *hosts.PLAIN]),
        (False, {"HYDRA_LAUNCHER_EXEC": "/bin/sh"}, ["/bin/sh"]),
        (False, {"HYDRA_LAUNCHER": "rsh"}, ["rsh"]),
        (False, {"HYDRA_LAUNCHER": "slurm"}, []),
        (False, {"PRTE_MCA_plm_ssh_agent": "/bin/sh"}, ["ssh", *hosts.PLAIN]),
    ],
)
def test_the_agent_is_the_one_that_mpirun_uses(
    openmpi: bool, env: dict[str, str], line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "find_mpirun", lambda: "mpirun")
    monkeypatch.setattr(hosts, "is_openmpi", lambda program: openmpi)
    assert hosts.agent(env) == line


def test_a_scheduler_starts_processes_itself(
    setting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "agent", lambda env: [])
    (found,) = look(setting)
    assert found.status == OK and "by the scheduler" in found.seen


@pytest.fixture
def differ(make_hosts: Callable[[int], Any], tmp_path: Path,
           monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:  # fmt: skip
    """Return differ(body): hosts n1 and n2, and shell commands before anything runs on n2."""
    hosts = make_hosts(2)
    for name, value in hosts.environment.items():
        monkeypatch.setenv(name, value)

    def make(body: str) -> None:
        agent = tmp_path / "differing"
        inner = hosts.environment["HYDRA_LAUNCHER_EXEC"]
        agent.write_text(
            f'#!/bin/bash\n[[ " $* " != *" n2 "* ]] || {{ {body}; }}\nexec {inner} "$@"\n'
        )
        agent.chmod(0o755)
        for name in ("PRTE_MCA_plm_ssh_agent", "HYDRA_LAUNCHER_EXEC"):
            monkeypatch.setenv(name, str(agent))

    return make


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert len({one.name for one in found}) == len(found), found
    return {one.name: one for one in found}


def test_hosts_that_are_alike(setting: Make, differ: Callable[[str], None]) -> None:
    differ(":")
    found = by_name(look(setting, hosts=HOSTS))
    assert {one.status for one in found.values()} == {OK}, found
    assert list(found) == ["ssh", "software", "run-folder", "clock"]
    assert " reaches n1, n2 within " in found["ssh"].seen


def test_a_clock_that_is_wrong(
    setting: Make, differ: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() - 30\n"
    )
    differ(f"export PYTHONPATH={tmp_path}")
    found = by_name(look(setting, hosts=HOSTS))
    assert found["clock"].status == WARNING and found["clock"].seen.startswith("n2: 30 s behind")
    assert found["clock"].remedy.startswith("on n2: systemctl enable --now chronyd")
    assert {found[name].status for name in ("ssh", "software", "run-folder")} == {OK}


def test_another_version(setting: Make, differ: Callable[[str], None], tmp_path: Path) -> None:
    info = tmp_path / "older" / "numpy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    differ(f"export PYTHONPATH={tmp_path}/older")
    found = by_name(look(setting, hosts=HOSTS))
    assert found["software"].status == ERROR
    assert found["software"].seen.startswith("n2 has numpy 1.0, this host ")
    assert sys.prefix in found["software"].remedy


@pytest.mark.parametrize("hidden", ["runs", "deep"])
def test_folders_that_are_not_shared(
    hidden: str, setting: Make, differ: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    runs, work = tmp_path / "runs", tmp_path / "deep" / "work"
    runs.mkdir()
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    apart = tmp_path / "apart"
    apart.write_text(f'mount -t tmpfs none "{tmp_path}/{hidden}" && eval "$1"\n')
    differ(f'it=${{@: -1}}; set -- "${{@:1:$#-1}}" "unshare --mount bash {apart} ${{it@Q}}"')
    found = by_name(look(setting, hosts=HOSTS, folder=runs))
    if hidden == "runs":
        assert found["run-folder"].status == WARNING and "work-folder" not in found
        assert found["run-folder"].seen == f"{runs} is not shared with n2"
        assert "--out FOLDER" in found["run-folder"].remedy
    else:
        assert found["run-folder"].status == OK and found["work-folder"].status == ERROR
        assert found["work-folder"].seen == f"{work} is not on n2"
    assert list(runs.iterdir()) == []
