"""Where a rank is: the collectives that it has begun, and the one that it waits in.

The watchdog reads this from its own thread, so whatever is written here is one reference, replaced
whole.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..timeline.events import Recorder

_ROOT = __name__.rpartition(".trainer.")[0]
INNER = tuple(f"{_ROOT}.{name}." for name in ("trainer.distributed", "autograd"))
WHOLE = (f"{_ROOT}.",)
_RAISED = "_tallygrad_raised"  # attribute of an error: the call or the activity that it ended
KEPT = 32  # collectives that a dump shows
MAIN = "main"  # the stream of collectives that every rank starts with


class Call:
    """A collective that this rank is in. `number` counts the rank's collectives of a `stream` from
    1 (0: a message between two ranks); `nbytes` are its own. As a context it is waited for; an
    exchange in flight is only at its end."""

    __slots__ = (
        "_code", "_created", "_journal", "_line", "begun", "name", "nbytes", "number", "seconds",
        "step", "stream",
    )  # fmt: skip

    def __init__(
        self, journal: Journal, stream: str, name: str, array: NDArray[Any] | int, number: int
    ) -> None:
        self._journal, self.stream, self.name, self.number = journal, stream, name, number
        self.nbytes = array if isinstance(array, int) else array.nbytes
        self.step = journal.step
        self._code, self._line = _caller(journal.inner)
        self._created = time.monotonic() if journal.recorder is not None else 0.0
        self.begun = 0.0
        self.seconds = 0.0  # it took, 0 while it lasts

    @property
    def where(self) -> str:
        """The source line that asked for it, outside the journal's `inner` packages."""
        return f"{short(self._code.co_filename)}:{self._line}"

    def __enter__(self) -> Call:
        self.begun = time.monotonic()
        self._journal.waits[threading.get_ident()] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._journal.waits.pop(threading.get_ident(), None)
        if error is not None:
            vars(error).setdefault(_RAISED, self)
        end = time.monotonic()
        self.seconds = end - self.begun
        self._journal.latest.append(self)
        if self._journal.recorder is not None:
            self._record(self._journal.recorder, end)

    def polled(self) -> None:
        """Take down an exchange in flight that has ended without a wait."""
        recorder = self._journal.recorder
        if recorder is not None and self._created:
            self._record_flight(recorder, time.monotonic())

    def _record(self, recorder: Recorder, end: float) -> None:
        args = {"number": self.number, "stream": self.stream, "bytes": self.nbytes}
        args |= {"step": self.step, "line": self.where}
        recorder.add(self.name, "collective", self.begun, end, args)
        if self._created and self.name.startswith("i"):
            self._record_flight(recorder, end)

    def _record_flight(self, recorder: Recorder, end: float) -> None:
        args = {"number": self.number, "stream": self.stream, "bytes": self.nbytes}
        recorder.add(self.name, "exchange in flight", self._created, end, args, flight=True)
        self._created = 0.0  # once

    def __str__(self) -> str:
        size = f" of {self.nbytes:,} bytes" if self.nbytes else ""
        stream = "" if self.stream == MAIN else f" of {self.stream}"
        number = f" (#{self.number}{stream})" if self.number else ""
        return f"{self.name}{size}{number} at step {self.step}, {self.where}"


class Journal:
    """What this rank does.

    The trainer sets `step`, `activity` and `folder`, where a rank that is about to be ended leaves
    its stacks, and `recorder`, where a timeline is wanted. `begun` counts collectives by stream,
    `waits` has those that threads wait in, by thread, and `latest` those that have ended. `ended`
    is set before a rank ends in a way that the others hear of otherwise. Lines of the `inner`
    packages are not named: in a script of the user, its own line says more than ours.
    """

    def __init__(self) -> None:
        self.step = 0
        self.activity = "starting"
        self.begun: dict[str, int] = {}
        self.waits: dict[int, Call] = {}
        self.latest: deque[Call] = deque(maxlen=KEPT)
        self.ended = threading.Event()
        self.folder: Path | None = None
        self.recorder: Recorder | None = None
        self.inner = INNER

    @contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Say what this rank does for the length of a block."""
        before, self.activity = self.activity, activity
        begin, recorder = time.monotonic(), self.recorder
        try:
            yield
        except BaseException as error:
            vars(error).setdefault(_RAISED, self._work)
            raise
        finally:
            self.activity = before
            if recorder is not None:
                recorder.add(activity, "activity", begin, time.monotonic(), {"step": self.step})

    def collective(self, stream: str, name: str, array: NDArray[Any] | int = 0) -> Call:
        """Return a call of the next number. All ranks must come to the collectives of a stream in
        the same order."""
        number = self.begun[stream] = self.begun.get(stream, 0) + 1
        return Call(self, stream, name, array, number)

    def message(self, name: str, array: NDArray[Any]) -> Call:
        """Return a call that only two ranks come to."""
        return Call(self, "", name, array, 0)

    @property
    def _work(self) -> str:
        return f"{self.activity}, step {self.step}"

    def place(self, error: BaseException) -> str:
        """Return where an error began: the collective, or else the activity, the step, and the
        source line."""
        while error.__cause__ is not None:
            error = error.__cause__
        raised = vars(error).get(_RAISED, self._work)
        return (
            f"in {raised}" if isinstance(raised, Call) else f"{raised}, {_line(error, self.inner)}"
        )

    @property
    def waiting(self) -> Call | None:
        """The collective that this rank waits in: its main thread's, else that of another one."""
        waits = self.waits.copy()
        return waits.get(threading.main_thread().ident or 0) or next(iter(waits.values()), None)


def _caller(inner: tuple[str, ...]) -> tuple[CodeType, int]:
    """Return the code and the line that led to a collective, outside the inner packages. The engine
    is one: it runs what waits for its turn at any time."""
    frame = sys._getframe(2)
    while frame.f_back and _is_in(frame, inner):
        frame = frame.f_back
    return frame.f_code, frame.f_lineno


def _is_in(frame: FrameType, packages: tuple[str, ...]) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name.startswith(packages)


def _line(error: BaseException, inner: tuple[str, ...]) -> str:
    """Return the innermost source line of a traceback outside the inner packages."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not found or not _is_in(frame, inner):
            found = f"{short(frame.f_code.co_filename)}:{line}"
    return found


def short(path: str) -> str:
    """Return the last two parts of a path, which name a module and its package."""
    return "/".join(path.split("/")[-2:])
