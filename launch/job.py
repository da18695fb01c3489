"""A running job: an mpirun whose ranks start, stop and end together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from .mpirun import command_line, environment, find_mpirun, is_openmpi

GRACE = 120.0  # seconds that ranks have to finish their step and keep it after a request to stop
ONCE = 1.0  # seconds that belong to one request: a terminal and a scheduler may both send one
TIMED_OUT = 124
LOOK = 5.0  # seconds between looks at which ranks are there
MISSED = 3  # looks in a row at which a rank is missing until the job is ended
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")  # where MPICH and Open MPI tell a rank its number
# A closing terminal must end the ranks too: they run in a session of their own. All are passed on
# as SIGUSR1, which both MPIs hand to the ranks: of the others, Open MPI's mpirun kills them.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (*STOPPING, signal.SIGUSR1)
OWN = (0, 1, 2, 3)  # statuses that the trainer ends with by itself


def start(ranks: int, command: list[str], timeout: float) -> int:
    """Run a trainer command on ranks of this machine; return the status for the shell, `TIMED_OUT`
    where it took longer. LaunchError where it cannot begin."""
    mpirun = find_mpirun()
    openmpi = is_openmpi(mpirun)
    job = Job(command_line(mpirun, openmpi, ranks, None, command), environment(openmpi), ranks)
    status = job.wait(timeout)
    return TIMED_OUT if job.timed_out else status


class Job:
    """A running mpirun that gets this process's signals and leaves no rank behind.

    The first request to stop is forwarded; a second one, or `GRACE` seconds, kills the ranks. The
    status tells which signal asked. Where all `ranks` are on this machine, the end of one without
    the others ends the job: an MPI does not see it before a rank's MPI_Init, nor after an exit with
    status 0. When this process is killed, mpirun is too, and its ranks with it, those of Open MPI
    since they watch their parent.
    """

    def __init__(self, line: list[str], env: dict[str, str], ranks: int = 0) -> None:
        self.timed_out = False
        self.lost: list[int] = []
        self._ranks, self._missed = set(range(ranks)), 0
        self._mark = f"TALLYGRAD_JOB={uuid.uuid4().hex}"
        self._received: list[int] = []
        self._asked = 0  # the signal that asked first
        self._asked_at = 0.0
        self._deadline = float("inf")
        # Handlers first: a signal between the start and the wait must not be lost. What is
        # ignored, as under nohup, stays so.
        self._previous = {
            number: signal.signal(number, self._receive)
            for number in FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        name, value = self._mark.split("=")
        self._process = subprocess.Popen(
            line,
            env={**env, name: value},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )

    def wait(self, timeout: float | None) -> int:
        """Return mpirun's status as a shell shows it; ask it to stop after `timeout` seconds."""
        limit = time.monotonic() + timeout if timeout else float("inf")
        look = time.monotonic() + LOOK
        try:
            while self._process.poll() is None:
                if time.monotonic() > limit:
                    self.timed_out, limit = True, float("inf")
                    self._received.append(signal.SIGTERM)
                if self._ranks and not self._asked and time.monotonic() > look:
                    self._look()
                    look = time.monotonic() + LOOK
                self._pass_on()
                if time.monotonic() > self._deadline:
                    self._kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
        finally:
            self._kill()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        status = self._process.wait()
        if self._asked and status not in OWN:
            return 128 + self._asked
        return status if status >= 0 else 128 - status

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def _pass_on(self) -> None:
        while self._received:
            number, now = self._received.pop(0), time.monotonic()
            if number in STOPPING and self._asked:
                if now - self._asked_at >= ONCE:
                    self._deadline = 0.0
                continue
            if number in STOPPING:
                self._asked, self._asked_at, self._deadline = number, now, now + GRACE
            self._process.send_signal(signal.SIGUSR1)

    def _look(self) -> None:
        """Ask for the end of a job that has lost ranks for `MISSED` looks."""
        here = {value for _, env in self._processes() for value in map(_rank_in, env)}
        missing = self._ranks - here if here & self._ranks else set()
        self._missed = self._missed + 1 if missing else 0
        if self._missed >= MISSED:
            self.lost, self._deadline = sorted(missing), 0.0

    def _kill(self) -> None:
        for process, _ in self._processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the job's processes and their environments. Ranks sit in groups and sessions of
        their own, and outlive an mpirun that was killed: what the whole job has in common is its
        environment."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                env = (folder / "environ").read_text(errors="replace").split("\0")
                if self._mark in env:
                    yield int(folder.name), env


def _rank_in(entry: str) -> int | None:
    """Return the rank that a variable of an environment tells."""
    name, _, value = entry.partition("=")
    return int(value) if name in RANKS and value.isdecimal() and len(value) < 10 else None


def _dying_with(parent: int) -> Callable[[], None]:
    """Return what a new process calls so that the kernel kills it when `parent`, its parent, ends
    in whatever way; where that is not Linux, nothing."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def call() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # it was quicker
                os._exit(1)

    return call
