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


class Monitor:
    """Listens, in a thread, to the ranks of a job. `environment` is what they need to find it."""

    def __init__(self) -> None:
        self._hub = Hub()
        self.environment = {VARIABLE: json.dumps(self._hub.contact)}
        self._statuses: dict[int, dict[str, Any]] = {}  # the latest, by rank
        self._left: set[int] = set()
        self._first: int | None = None  # rank that ended without a farewell before all others
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="monitor", daemon=True)
        self._thread.start()

    def close(self) -> str:
        """Stop listening; return which rank was lost first, and what it did, in one line, or an
        empty one where none was."""
        time.sleep(POLL)  # what the end of the ranks has sent may still be on its way
        self._closing.set()
        self._thread.join()
        self._hub.close()
        if self._first is None:
            return ""
        status = self._statuses.get(self._first)
        if status is None:
            return f"rank {self._first} ended unexpectedly, before it said what it does"
        return f"{status['title']} ended unexpectedly, {status['doing']}"

    def _listen(self) -> None:
        while not self._closing.is_set():
            for rank, message in self._hub.messages(POLL):
                match message:
                    case {"title": str(), "doing": str()}:
                        self._statuses[rank] = message
                    case {"farewell": _}:
                        self._left.add(rank)
                    case None if self._first is None and rank not in self._left:
                        self._first = rank
