"""A running job: an mpirun whose ranks start, stop and end together.

`mpirun` alone does not guarantee this: it leaves ranks behind when it is killed, and does not see
every rank that ends early.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from types import FrameType

from . import reap
from .monitor import Monitor
from .mpirun import prepare

GRACE = 120.0  # seconds for ranks to finish their step and write a checkpoint, once asked to stop
ONCE = 1.0  # seconds in which signals count as one request: terminal and scheduler may both send
TIMED_OUT = 124
LOOK = 5.0  # seconds between checks of which ranks are alive
ENDING = 6.0  # seconds for MPI to end a job that its ranks have given up
MISSED = 3  # consecutive checks without a rank after which the job is ended
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")  # variables of MPICH and Open MPI with the rank
# SIGHUP too: the ranks run in a session of their own, which a closing terminal does not reach. All
# are forwarded as SIGUSR1, which both MPIs pass on to the ranks; on the others, Open MPI's mpirun
# kills them.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (*STOPPING, signal.SIGUSR1, signal.SIGUSR2)
PREEMPTED = 75  # status of ranks that wrote a checkpoint and ended, as they were asked to
OWN = (0, 1, 2, 3, 4, 5, 71, PREEMPTED)  # exit statuses of the trainer itself


def start(ranks: int, command: list[str], timeout: float) -> int:
    """Run a trainer command on ranks of this host, and return the exit status.

    The status is `TIMED_OUT` if the command took more than `timeout` seconds. Raises LaunchError if
    it cannot be started.
    """
    line, env = prepare(ranks, None, command)
    job = Job(line, env, ranks)
    status = job.wait(timeout)
    return TIMED_OUT if job.timed_out else status


class Job:
    """A running mpirun that receives this process's signals and leaves no rank behind.

    The first request to stop is forwarded. A second one, or `GRACE` seconds, kills the ranks. The
    status then is that of the signal.

    `ranks` is the number of ranks that must be alive on this host; 0 if some are elsewhere. If one
    disappears while others continue, the job is ended and `lost` lists it. MPI itself does not
    notice this before the rank's MPI_Init, nor after an exit with status 0.

    If this process is killed, the kernel kills mpirun. Ranks of MPICH end with it, as do those of
    Open MPI, which watch their parent. `timed_out` says whether `wait` reached its timeout.
    """

    def __init__(self, line: list[str], env: dict[str, str], ranks: int = 0) -> None:
        self.timed_out = False
        self.lost: list[int] = []
        self._ranks, self._missed = set(range(ranks)), 0
        self.name = uuid.uuid4().hex
        self._received: list[int] = []
        self._asked = 0  # the signal of the first request to stop
        self._asked_at = 0.0
        self._deadline = float("inf")
        # Handlers come first, so that no signal between start and wait is lost. Ignored signals, as
        # under nohup, stay ignored.
        self._previous = {
            number: signal.signal(number, self._receive)
            for number in FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._monitor = Monitor()
        self.report = ""  # which rank was lost, once the job has ended
        self.segments: tuple[str, ...] = ()  # of shared memory, on all hosts; see `reap`
        self._process = subprocess.Popen(
            line,
            env={**env, reap.VARIABLE: self.name, **self._monitor.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )

    def wait(self, timeout: float | None) -> int:
        """Wait for mpirun, and return its status as a shell would report it.

        After `timeout` seconds (None: never) the ranks are asked to stop.
        """
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
                # Open MPI would wait for its process on a host that is cut off.
                if time.monotonic() > self._deadline or self._monitor.ending > ENDING:
                    reap.kill(self.name)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
        finally:
            if self._process.poll() is None:
                reap.kill(self.name)
            self.report = self._monitor.close()  # before ranks that are left are killed
            reap.kill(self.name)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        status = self._process.wait()
        self.segments = self._monitor.segments
        reap.clean(self.name, self.segments)
        by_user = self._asked in (signal.SIGINT, signal.SIGHUP) and status == PREEMPTED
        if self._asked and (status not in OWN or by_user):
            return 128 + self._asked
        return status if status >= 0 else 128 - status

    @property
    def asked(self) -> bool:
        """Whether a signal asked for the end."""
        return self._asked != 0

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
        """End the job if ranks have been missing for `MISSED` checks in a row."""
        alive = {value for _, env in reap.processes(self.name) for value in map(_rank_in, env)}
        missing = self._ranks - alive if alive & self._ranks else set()
        self._missed = self._missed + 1 if missing else 0
        if self._missed >= MISSED:
            self.lost, self._deadline = sorted(missing), 0.0


def _rank_in(entry: str) -> int | None:
    """Return the rank that an entry of an environment names, or None."""
    name, _, value = entry.partition("=")
    return int(value) if name in RANKS and value.isdecimal() and len(value) < 10 else None


def _dying_with(parent: int) -> Callable[[], None]:
    """Return a function for `preexec_fn`: the kernel kills the new process when `parent` ends.

    Outside of Linux it does nothing.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def call() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # the parent ended before prctl took effect
                os._exit(1)

    return call
