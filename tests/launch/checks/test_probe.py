"""Questions to a Python of its own: answers, and the ways in which there is none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tallygrad.launch.checks.probe import ProbeError, ask, run


def test_the_last_line_is_the_answer() -> None:
    code = "import json, os, sys; print('noise'); print(json.dumps([sys.argv[1], os.environ['A']]))"
    assert ask(code, "x y", env={**os.environ, "A": "1"}) == ["x y", "1"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        (
            "import no_such_module",
            "status 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("import sys; sys.exit('first\\nlast')", "status 1: first"),
        (
            "import sys; sys.exit('Abort, error stack:\\nMPI_Init: failed\\nno route')",
            "status 1: no route",
        ),
        ("import os; os._exit(3)", "status 3, no message"),
        ("print('{')", "unexpected output: '{'"),
        ("pass", "unexpected output: ''"),
    ],
)
def test_no_answer(code: str, reason: str) -> None:
    with pytest.raises(ProbeError) as error:
        ask(code)
    assert str(error.value) == reason


def test_a_hang_ends_with_its_children(tmp_path: Path) -> None:
    """The child ignores SIGTERM."""
    code = """
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(15, 1); print('', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
child.wait()
"""
    path = tmp_path / "pid"
    with pytest.raises(ProbeError, match="no answer within 10 s"):
        ask(code, str(path), limit=10)
    child = int(path.read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.1)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProbeError, match="/no/such/program: No such file or directory"):
        run(["/no/such/program"], None, 5)
