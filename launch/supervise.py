"""`tallygrad supervise`: run a training until it is complete, through failures of ranks and hosts.

It runs outside of mpirun, which a failure may take down. Each attempt resumes from the newest valid
checkpoint; what an earlier attempt has left running is killed where it can be reached, and cannot
write to the run folder where it cannot (`TALLYGRAD_ATTEMPT`; see `trainer.lock`). An attempt that
ends with status 0 counts only if the run has written its completion record.
"""

from __future__ import annotations

import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from . import hosts as cluster
from .attempt import Outcome, attempt, record_path
from .copies import Record
from .hostfile import parse_hosts
from .job import PREEMPTED
from .mpirun import LaunchError, prepare

VARIABLE = "TALLYGRAD_ATTEMPT"
FINAL = (0, 2, 3)  # complete; an error to correct; a loss that is not finite: again would be alike
LONGEST = 60.0  # seconds between attempts


@dataclass(frozen=True)
class Policy:
    """How often to try: again at once after an attempt with a new checkpoint; up to `retries` times
    in a row without one, first after `backoff` seconds, then after twice as long each time."""

    retries: int = 10
    backoff: float = 1.0

    def pause(self, failures: int) -> float:
        """Return the seconds before the next attempt, after so many in a row without progress."""
        return min(LONGEST, self.backoff * 2.0 ** min(failures - 1, 30)) if failures else 0.0


@dataclass(frozen=True)
class Place:
    """Where a job runs: on up to so many ranks, on `hosts` such as "a:4,b:4" (None: this host),
    each bound as `binding` says."""

    ranks: int
    hosts: str | None = None
    binding: str = ""


def supervise(place: Place, command: list[str], policy: Policy, timeout: float | None) -> Outcome:
    """Run a `train` command until it is complete; return how that ended.

    LaunchError if the command names no run folder, or cannot be started at all.
    """
    record = record_path(command)
    if command[0] != "train" or record is None:
        raise LaunchError("supervise: expected train ... --out FOLDER, which it resumes from")
    run = uuid.uuid4().hex
    failures, number, before = 0, 0, newest_step(record.parent)
    while True:
        number += 1
        outcome = _attempt(place, resuming(command), f"{run}:{number}", timeout)
        if outcome.asked or outcome.status in (*FINAL, PREEMPTED):
            return outcome
        after = newest_step(record.parent)
        failures, before = (0 if after > before else failures + 1), max(after, before)
        reason = outcome.message or f"status {outcome.status}"
        if failures > policy.retries:
            text = f"no new checkpoint in {failures} attempts, the last of which ended: {reason}"
            return Outcome(outcome.status, text)
        pause = policy.pause(failures)
        step = f"step {before}" if before >= 0 else "the beginning"
        step += " or later" if Record.read(record.parent).hosts else ""
        when = f"in {pause:g} s" if pause else "at once"
        say(f"attempt {number} ended: {reason}; resuming from {step} {when}")
        time.sleep(pause)


def _attempt(place: Place, command: list[str], token: str, timeout: float | None) -> Outcome:
    """Run a command once, on the hosts that answer, and clean up after it."""
    ranks, hosts = place.ranks, place.hosts
    available = parse_hosts(hosts) if hosts else ()
    answering = cluster.reachable(available)
    if hosts and not answering:
        return Outcome(1, f"none of the hosts {hosts} answers")
    if lost := [host.name for host in available if host not in answering]:
        say(f"without {', '.join(lost)}, which does not answer")
    number = min(ranks, sum(h.slots for h in answering)) if hosts else ranks
    if number < ranks:
        say(f"running on {number} ranks instead of {ranks}")
    named = ",".join(map(str, answering)) or None
    line, env = prepare(number, named, command, place.binding, {VARIABLE: token})
    outcome = attempt(line, env, command, 0 if hosts else number, timeout)
    cluster.reap_on(answering, outcome.job, outcome.segments)
    return outcome


def resuming(command: list[str]) -> list[str]:
    """Return the command with `--resume auto`, unless it resumes from something already."""
    given = any(word == "--resume" or word.startswith("--resume=") for word in command)
    return command if given else [*command, "--resume", "auto"]


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in a run folder, or the one that the latest attempt
    took from memory, if that is later; -1 if there is none."""
    names = (path.name for path in (folder / "checkpoints").glob("step-*.h5"))
    found = (re.fullmatch(r"step-(\d+)\.h5", name) for name in names)
    return max([Record.read(folder).step, *(int(match[1]) for match in found if match)])


def say(text: str) -> None:
    """Print a line on what the supervisor does."""
    print(f"tallygrad: supervise: {text}", file=sys.stderr, flush=True)
