"""The processes of a job on this host, found by a variable in their environment.

Ranks have process groups and sessions of their own, and outlive an mpirun that is killed. So does
the shared memory of their MPI, which only a rank that ends in order removes. Run as
`python -m tallygrad.launch.reap JOB [SEGMENT...]` it kills and removes what a job has left behind;
with `-` in place of its segments, their names are the input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "TALLYGRAD_JOB"
READ = "-"  # in place of names
MEMORY = Path("/dev/shm")
SEGMENTS = ("mpich_shm_", "sm_segment.", "vader_segment.")  # of MPICH, and of Open MPI 5 and 4
DYING = 2.0  # seconds that a killed process may take to end


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


def segments(process: str = "self") -> set[str]:
    """Return the names of the segments of MPI's shared memory that a process uses."""
    with contextlib.suppress(OSError):
        lines = Path("/proc", process, "maps").read_text(errors="replace").splitlines()
        paths = (line.partition(f" {MEMORY}/")[2] for line in lines)
        return {name for name in paths if name.startswith(SEGMENTS)}
    return set()


def clean(job: str, names: Iterable[str]) -> None:
    """Remove segments that a job has left in this host's memory: those of this user that nobody
    uses once the job's processes have ended."""
    left = {name for name in names if _is_left(name)}
    end = time.monotonic() + DYING
    while left and time.monotonic() < end and any(p != os.getpid() for p, _ in processes(job)):
        time.sleep(0.05)
    if left:
        left -= set().union(*(segments(f.name) for f in Path("/proc").glob("[0-9]*")))
    for name in left:
        with contextlib.suppress(OSError):
            (MEMORY / name).unlink()


def _is_left(name: str) -> bool:
    """Tell whether there is such a segment, made by this user."""
    with contextlib.suppress(OSError):
        is_own = name.startswith(SEGMENTS) and "/" not in name
        return is_own and (MEMORY / name).lstat().st_uid == os.geteuid()
    return False


if __name__ == "__main__":
    _, job, *names = sys.argv
    kill(job)
    clean(job, sys.stdin.read().split() if names == [READ] else names)
