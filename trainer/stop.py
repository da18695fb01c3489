"""Requests to stop, by a signal or by the clock: a run finishes its step, writes a checkpoint, and
ends. Schedulers take the status `PREEMPTED` for a job to be queued again."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from .errors import Interrupted

if TYPE_CHECKING:
    from .distributed.comm import Comm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PREEMPTING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h
CLOCK = 64  # stands among the signals for the time that is up
MARGIN = 5.0  # seconds besides those that steps and checkpoints take
ONCE = 1.0  # seconds that belong to one request: scheduler and launcher may both send a signal


class Stopped(Exception):
    """All ranks have agreed to stop what they were at, which has to be begun anew."""


class Stop:
    """Hears signals while it is open: `SIGNALS` and those of `preempting`. The first one raises
    `Interrupted`, or, from `finish_steps()` on, waits for the ranks to agree on it. A second one,
    `ONCE` later or more, ends this process at once, even where it waits inside MPI. A signal that
    is ignored, as under nohup, stays so.

    `deadline`, in seconds since the epoch, is when the run must have ended. It asks as early as the
    slowest step and the slowest checkpoint so far demand, twice over.
    """

    def __init__(
        self,
        says: bool = True,
        preempting: Sequence[int] = PREEMPTING,
        deadline: float = math.inf,
    ) -> None:
        self.preempting, self.deadline = preempting, deadline
        self._asked = time.monotonic()  # when the ranks were asked last
        self._slowest = 0.0  # seconds from there to here
        self.heard = 0  # number of the first signal of this rank
        self.number = 0  # of the one that the ranks agreed on
        self.says = says
        self._finishes = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Python's handlers wait for the main thread to come back from C; the pipe does not.
        ears, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        self._wakeup = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for number in {*SIGNALS, *self.preempting}:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        threading.Thread(target=self._listen, args=(ears,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None was set by a library, such as MPI: it cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._mouth)

    @property
    def status(self) -> int:
        """The exit status: `PREEMPTED`, or the one that tells a shell of the signal."""
        is_preempted = self.number == CLOCK or self.number in self.preempting
        return PREEMPTED if is_preempted else 128 + self.number

    def finish_steps(self) -> None:
        """Let a first signal wait from now on, until `agreed` asks for it."""
        self._finishes = True
        self._asked = time.monotonic()  # what came before was no step

    def agreed(self, comm: Comm) -> bool:
        """Tell whether any rank was asked to stop. All ranks must call it alike, after each step
        and what comes with it: the time since the last call is what one more would take."""
        import numpy as np

        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._asked)
        self._asked = now
        if time.time() + 2 * self._slowest + MARGIN > self.deadline:
            self.heard = self.heard or CLOCK
        number = np.array(self.heard)
        comm.allreduce(number, "max")
        self.number = int(number)
        return self.number > 0

    def check(self, comm: Comm) -> None:
        """Raise `Stopped` where the ranks agree to stop."""
        if self._finishes and self.agreed(comm):
            raise Stopped

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self.heard = not self.heard, self.heard or number
        if first and not self._finishes:
            raise Interrupted(number)

    def _listen(self, ears: int) -> None:
        first = 0.0
        while heard := os.read(ears, 1):
            number, now = heard[0], time.monotonic()
            if number not in self._before:
                continue
            if first and now - first >= ONCE:
                os._exit(128 + number)
            if not first and self._finishes and self.says:
                self._tell(number)
            first = first or now
        os.close(ears)

    def _tell(self, number: int) -> None:
        name = signal.Signals(number).name
        line = f"tallygrad: {name}: stopping after this step; a second one leaves at once\n"
        with suppress(OSError):
            os.write(2, (b"\n" if os.isatty(2) else b"") + line.encode())
