"""Ask a Python of its own: a library that crashes or hangs must not take doctor with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

LIMIT = 60.0  # seconds
LAST_WORDS = 5.0  # seconds that a killed process gets to end; one that waits for a disk may not


class ProbeError(Exception):
    """Why there is no answer, in one line."""


def ask(
    code: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> Any:
    """Run Python code in a process of its own and return the JSON of its last line.

    Raises ProbeError if it takes more than `limit` seconds, ends with an error or prints no JSON.
    """
    status, out, err = run([sys.executable, "-P", "-c", code, *arguments], env, limit)
    if status:
        raise ProbeError(reason(status, err or out))
    last = (out.strip().splitlines() or [""])[-1]
    try:
        return json.loads(last)
    except ValueError:
        raise ProbeError(f"unexpected output: {last!r:.200}") from None


def run(
    command: Sequence[str], env: Mapping[str, str] | None, limit: float
) -> tuple[int, str, str]:
    """Run a command; return its exit status, output and errors.

    Raises ProbeError if it cannot be started or takes more than `limit` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            close_fds=False,  # a launcher's connection to its ranks is one
        )
    except OSError as error:
        raise ProbeError(f"{command[0]}: {error.strerror or error}") from None
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _end(process)
        raise ProbeError(f"no answer within {limit:g} s") from None
    except BaseException:
        _end(process)
        raise
    return process.returncode, out, err


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and its children: gently first, so that an mpirun can end its ranks."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=LAST_WORDS)


def reason(status: int, text: str) -> str:
    """Return why a process ended, by its exit status and what it said, in one line."""
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    lines = [line.strip() for line in text.splitlines() if line.strip(" -\n")]
    if not lines:
        return f"status {status}, no message"
    # Python and MPICH's stacks of errors tell the reason last, an mpirun first.
    stack = any(line.startswith("Traceback") or line.endswith("error stack:") for line in lines)
    said = lines[-1] if stack else lines[0]
    return f"status {status}: {said:.300}"
