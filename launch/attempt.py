"""Run a job once, and decide whether it is complete.

An exit status of 0 is not enough, because mpirun returns it for some failures too. A `train` with
`--out` is complete only if it has also written `result.json`, or touched that of a complete run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple, TypeAlias

from .job import OWN, TIMED_OUT, Job
from .mpirun import outlives_ranks

LOST = 4  # status of a job that has lost a rank, whatever its MPI says of that
Stamp: TypeAlias = tuple[int, int, int]  # inode, time of the last change, size


class Outcome(NamedTuple):
    """How a job ended: `message` says what its ranks have not said, `asked` tells whether a signal
    to this process was the reason; `job` is the job's name, and `segments` its MPI's shared memory
    (see `reap`)."""

    status: int
    message: str = ""
    asked: bool = False
    job: str = ""
    segments: tuple[str, ...] = ()


def attempt(
    line: list[str], env: dict[str, str], command: list[str], ranks: int, timeout: float | None
) -> Outcome:
    """Run mpirun's command line `line` for a trainer's `command`, and return the outcome.

    `ranks` is the number of ranks on this host, 0 if they may be elsewhere.
    """
    record = record_path(command)
    earlier = _stamp(record)
    job = Job(line, env, 0 if outlives_ranks(command) else ranks)
    status = job.wait(timeout)
    outcome = _judge(job, status, record, earlier, timeout)
    return outcome._replace(job=job.name, segments=job.segments)


def _judge(
    job: Job, status: int, record: Path | None, earlier: Stamp | None, timeout: float | None
) -> Outcome:
    if job.timed_out:
        return Outcome(TIMED_OUT, f"--timeout: the job was ended after {timeout:g} s", asked=True)
    if job.lost:
        names = ", ".join(map(str, job.lost))
        return Outcome(LOST, f"rank {names} ended before the others: the job was ended")
    incomplete = status == 0 and record and _stamp(record) in (None, earlier)
    if job.report and (incomplete or status not in OWN):
        return Outcome(status if job.asked else LOST, job.report, job.asked)
    if incomplete:
        text = f"{record}: not written, although mpirun ended with status 0; the run is incomplete"
        return Outcome(1, text)
    return Outcome(status, asked=job.asked)


def record_path(command: list[str]) -> Path | None:
    """Return the `result.json` that a `train` command with `--out` writes at its end, else None."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out")
    try:
        out = parser.parse_known_args(command[1:])[0].out
    except argparse.ArgumentError:
        return None
    asks_help = "-h" in command or "--help" in command
    return Path(out) / "result.json" if out and not asks_help else None


def _stamp(record: Path | None) -> Stamp | None:
    # Compared before and after the run, so no clock of another host matters.
    try:
        if record is None:
            return None
        # Opening it makes a network file system ask its server, instead of using cached attributes.
        descriptor = os.open(record, os.O_RDONLY | os.O_NONBLOCK)
        state = os.fstat(descriptor)
        os.close(descriptor)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def fail(message: str, status: int) -> int:
    """Print an error to stderr, and return `status`."""
    print(f"tallygrad: error: {message}", file=sys.stderr)
    return status
