"""The processes of a job on this host, found by a variable in their environment.

Ranks have process groups and sessions of their own, and outlive an mpirun that is killed. Run as
`python -m tallygrad.launch.reap JOB` it kills what a job has left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "TALLYGRAD_JOB"


def processes(job: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the job's processes on this host, and their environments."""
    mark = f"{VARIABLE}={job}"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            env = (folder / "environ").read_text(errors="replace").split("\0")
            if mark in env:
                yield int(folder.name), env


def kill(job: str) -> None:
    """Kill the job's processes on this host, except this one."""
    for process, _ in processes(job):
        if process != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    kill(sys.argv[1])
