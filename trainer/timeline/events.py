"""What a rank notes down while it trains, on its own clock. It needs the standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST = 100_000  # spans of a rank; what comes later is counted, not kept


class Span(NamedTuple):
    """Something that lasted from `begin` to `end`, in seconds of `time.monotonic`, in a thread. A
    span in `flight` goes on beside what the thread does; others of a thread lie within or after
    one another."""

    name: str
    kind: str
    begin: float
    end: float
    thread: int
    args: dict[str, Any]
    flight: bool = False


@dataclass
class Recorder:
    """Keeps spans. `details` says whether steps are recorded now, or only the rare spans of
    evaluations and checkpoints. `threads` has the threads' names by number, 0 the main one."""

    details: bool = False
    spans: list[Span] = field(default_factory=list)
    dropped: int = 0
    threads: dict[int, str] = field(default_factory=lambda: {0: "main"})
    _numbers: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def span(self, name: str, kind: str, **args: Any) -> Iterator[None]:
        """Record a block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(name, kind, begin, time.monotonic(), args)

    def add(
        self, name: str, kind: str, begin: float, end: float, args: dict[str, Any],
        flight: bool = False,
    ) -> None:  # fmt: skip
        """Record what this thread has done, or begun (`flight`)."""
        if len(self.spans) >= MOST:
            self.dropped += 1
            return
        self.spans.append(Span(name, kind, begin, end, self._thread(), args, flight))

    def _thread(self) -> int:
        """Return the number of this thread. Threads that have ended share theirs with later ones of
        the same name: a loader's thread lives for an epoch."""
        ident = threading.get_ident()
        number = self._numbers.get(ident)
        name = threading.current_thread().name
        if threading.current_thread() is threading.main_thread():
            return 0
        if number is not None and self.threads[number] == name:
            return number
        with self._lock:
            known = {name: number for number, name in self.threads.items()}
            number = self._numbers[ident] = known.get(name, len(self.threads))
            self.threads[number] = name
        return number
