"""Fixtures for the checks of doctor: a setting, stand-ins for libraries, system calls that fail."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.checks.finding import Setting

# Makes a system call fail with an error in this process and its children: seccomp(2).
DENY = """
import ctypes, struct
def deny(number, error, first=None):
    match = [(0x20, 0, 0, 16), (0x15, 0, 1, first)] if first is not None else []
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1 + len(match), number), *match,
             (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""
CHECK = """
import dataclasses, json, sys
from pathlib import Path
from tallygrad.launch.checks import network, processor, storage
from tallygrad.launch.checks.finding import Setting
def tell(check, **fields):
    print(json.dumps([dataclasses.asdict(found) for found in check(Setting(**fields))]))
"""
Stub = Callable[..., dict[str, str]]


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., Setting]:
    """Return setting(**fields): a job of two ranks in `tmp_path` that chooses its backend."""

    def make(**fields: Any) -> Setting:
        env = {k: v for k, v in os.environ.items() if k != "TALLYGRAD_BACKEND"}
        return Setting(**{"folder": tmp_path, "env": env, "worker_env": env, **fields})

    return make


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Return stub(module, code): an environment in which `import module` runs the code."""

    def make(module: str, code: str) -> dict[str, str]:
        folder = tmp_path / "stubs"
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(code)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        env = {k: v for k, v in os.environ.items() if k != "TALLYGRAD_BACKEND"}
        return {**env, "PYTHONPATH": path}

    return make


@pytest.fixture
def apart() -> Callable[..., list[dict[str, Any]]]:
    """Return run(code, *before, env={}): the findings that code `tell`s in a process of its own.

    `before` is a command that the process is started by. The code may `deny` system calls.
    """

    def run(code: str, *before: str, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
        if "deny(" in code and platform.machine() != "x86_64":
            pytest.skip("the numbers of system calls are those of x86-64")
        command = [*before, sys.executable, "-c", DENY + CHECK + code]
        done = subprocess.run(
            command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [found for line in done.stdout.splitlines() for found in json.loads(line)]

    return run
