"""Signals that ask a run to stop: it finishes its step, keeps what it has, and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from .errors import Interrupted

if TYPE_CHECKING:
    from .distributed.comm import Comm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
ONCE = 1.0  # seconds that belong to one request: scheduler and launcher may both send a signal


class Stop:
    """Hears signals while it is open. The first one raises `Interrupted`, or, from
    `finish_steps()` on, waits for the ranks to agree on it. A second one, `ONCE` later or more,
    ends this process at once, even where it waits inside MPI. A signal that is ignored, as under
    nohup, stays so."""

    def __init__(self, says: bool = True) -> None:
        self.heard = 0  # number of the first signal of this rank
        self.number = 0  # of the one that the ranks agreed on
        self._says = says
        self._finishes = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Python's handlers wait for the main thread to come back from C; the pipe does not.
        ears, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        self._wakeup = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for number in SIGNALS:
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
        """The exit status that tells a shell of the signal."""
        return 128 + self.number

    def finish_steps(self) -> None:
        """Let a first signal wait from now on, until `agreed` asks for it."""
        self._finishes = True

    def agreed(self, comm: Comm) -> bool:
        """Tell whether any rank was asked to stop. All ranks must call it alike."""
        import numpy as np

        number = np.array(self.heard)
        comm.allreduce(number, "max")
        self.number = int(number)
        return self.number > 0

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
            if not first and self._finishes and self._says:
                self._tell(number)
            first = first or now
        os.close(ears)

    def _tell(self, number: int) -> None:
        name = signal.Signals(number).name
        line = f"tallygrad: {name}: stopping after this step; a second one leaves at once\n"
        with suppress(OSError):
            os.write(2, (b"\n" if os.isatty(2) else b"") + line.encode())
