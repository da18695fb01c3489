"""What the ranks of a job were doing when it ended, told by themselves over the launcher's channel.

An MPI that loses a rank kills the others at once: only somebody outside can still say which was the
first to end, and where.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from .channel import Hub

VARIABLE = "TALLYGRAD_MONITOR"  # tells ranks where to report
POLL = 0.2  # seconds
LOSING = 2.0  # seconds for ranks to end that an MPI has left behind, or that are cut off


class Monitor:
    """Listens, in a thread, to the ranks of a job. `environment` is what they need to find it."""

    def __init__(self) -> None:
        self._hub = Hub()
        self.environment = {VARIABLE: json.dumps(self._hub.contact)}
        self._statuses: dict[int, dict[str, Any]] = {}  # the latest, by rank
        self._left: set[int] = set()
        self._first: int | None = None  # rank that ended without a farewell before all others
        self._verdict, self._condemned = "", 0.0  # why the ranks end the job, and since when
        self._segments: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="monitor", daemon=True)
        self._thread.start()

    @property
    def ending(self) -> float:
        """The seconds for which the ranks have tried to end the job, 0 where they have not."""
        return time.monotonic() - self._condemned if self._condemned else 0.0

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of shared memory that the ranks' MPI has made, on all hosts."""
        return tuple(sorted(self._segments))

    def close(self) -> str:
        """Hear what ranks have said until they ended; return which was lost first, and what it did,
        or for what they have ended the job, in one line; an empty one where nothing is wrong."""
        self._closing.set()
        self._thread.join()
        self._hub.close()
        if self._first is None:
            return self._verdict
        status = self._statuses.get(self._first)
        if status is None:
            return f"rank {self._first} ended unexpectedly, before it said what it does"
        return f"{status['title']} ended unexpectedly, {status['doing']}"

    def _listen(self) -> None:
        while not self._closing.is_set():
            for rank, message in self._hub.messages(POLL):
                self._note(rank, message)
        # A process that has ended has ended its connection too, after its last message.
        for rank, message in self._hub.last_messages(LOSING):
            self._note(rank, message)

    def _note(self, rank: int, message: Any) -> None:
        match message:
            case {"title": str(), "doing": str()}:
                self._statuses[rank] = message
                self._left.discard(rank)  # the number of another, in a job that shrank
            case {"segments": list(names)}:
                self._segments.update(map(str, names))
            case {"verdict": str(verdict)}:
                self._left.add(rank)
                self._verdict = self._verdict or verdict
                self._condemned = self._condemned or time.monotonic()
            case {"farewell": _}:
                self._left.add(rank)
            case None if self._first is None and rank not in self._left:
                self._first = rank
