"""A job is judged by what it leaves: mpirun's exit status of 0 proves little.

A `train` with `--out` counts as completed only when it has also written the record `result.json`
anew, or touched that of a run that it found complete.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .job import TIMED_OUT, Job


def supervise(
    line: list[str], env: dict[str, str], command: list[str], ranks: int, timeout: float | None
) -> int:
    """Run mpirun's command line `line` for a trainer's `command`, and return the status for the
    shell. `ranks`: how many must be on this machine, 0 where they may be elsewhere."""
    record = record_path(command)
    before = _stamp(record)
    job = Job(line, env, ranks)
    status = job.wait(timeout)
    if job.timed_out:
        return fail(f"the job was ended after {timeout:g} s", TIMED_OUT)
    if job.lost:
        names = ", ".join(map(str, job.lost))
        return fail(f"rank {names} ended while others went on: the job was ended", 1)
    if status == 0 and record and _stamp(record) in (None, before):
        return fail(f"mpirun ended with status 0, but the run did not write {record}", 1)
    return status


def record_path(command: list[str]) -> Path | None:
    """Return the completion record that a `train` command promises through `--out`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out")
    try:
        out = parser.parse_known_args(command[1:])[0].out
    except argparse.ArgumentError:
        return None
    asks_help = "-h" in command or "--help" in command
    return Path(out) / "result.json" if out and not asks_help else None


def _stamp(record: Path | None) -> tuple[int, int, int] | None:
    # The file before is compared with the file after: no clock of another host is trusted.
    try:
        if record is None:
            return None
        # Opening it makes a network file system ask its server anew.
        descriptor = os.open(record, os.O_RDONLY | os.O_NONBLOCK)
        state = os.fstat(descriptor)
        os.close(descriptor)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def fail(message: str, status: int) -> int:
    """Print an error and return the status."""
    print(f"tallygrad: error: {message}", file=sys.stderr)
    return status
