"""Threads that share the work of one call. NumPy's products and compiled kernels let go of Python's
lock, so plain threads do.

Work is cut by shapes alone, never by the number of threads: results are the same bits for any.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeAlias

# Does the parts from one number up to another, not including it; the last is the thread's own.
Work: TypeAlias = Callable[[int, int, int], None]
WORTHWHILE = 1 << 24  # multiply-accumulates that pay for waking a thread, which takes 0.1 ms


class _Worker:
    """A thread that waits for its share."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tasks: SimpleQueue[tuple[Work, int, int]] = SimpleQueue()
        self.ends: SimpleQueue[BaseException | None] = SimpleQueue()
        Thread(target=self._run, name=f"tallygrad-{number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            work, first, last = self.tasks.get()
            error: BaseException | None = None
            try:
                work(first, last, self.number)
            except BaseException as caught:
                error = caught
            # What the work refers to must be gone before the caller goes on.
            del work
            self.ends.put(error)


class _Crew:
    """The threads of this process: the caller's own, and workers beside it."""

    def __init__(self) -> None:
        self.size = 1
        self.workers: list[_Worker] = []
        self.busy = Lock()

    def share(self, parts: int, work: Work) -> None:
        helpers = min(self.size, parts) - 1
        # A second caller, or work that shares again, goes on alone.
        if helpers < 1 or not self.busy.acquire(blocking=False):
            work(0, parts, 0)
            return
        try:
            while len(self.workers) < helpers:
                self.workers.append(_Worker(len(self.workers) + 1))
            self._together(parts, work, self.workers[:helpers])
        finally:
            self.busy.release()

    def _together(self, parts: int, work: Work, workers: list[_Worker]) -> None:
        borders = [parts * i // (len(workers) + 1) for i in range(len(workers) + 2)]
        for i, worker in enumerate(workers, 1):
            worker.tasks.put((work, borders[i], borders[i + 1]))
        errors: list[BaseException | None] = []
        try:
            work(0, borders[1], 0)
        except BaseException as caught:
            errors.append(caught)
        errors += [worker.ends.get() for worker in workers]
        for error in errors:
            if error is not None:
                raise error


_crew = _Crew()


def _forked() -> None:
    """A child of `fork` has the thread that made it only."""
    global _crew
    size, _crew = _crew.size, _Crew()
    _crew.size = size


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def get_num_threads() -> int:
    """Return how many threads share the work of one call."""
    return _crew.size


def set_num_threads(count: int) -> None:
    """Let `count` threads share the work of one call: 1 until this is called. Results do not depend
    on it. ValueError below 1."""
    if count < 1:
        raise ValueError(f"set_num_threads: {count} threads; at least 1 is needed")
    _crew.size = count


def share(parts: int, work: Work) -> None:
    """Do `parts` independent parts of a piece of work: `work(first, last, worker)` does those from
    first up to last, in the thread of that number, below `get_num_threads()`. One thread does all
    in one call. What a part gives must not depend on the ranges. An error in a thread is raised
    here, after all have ended."""
    _crew.share(parts, work)
