"""Threads that share the work of one call.

NumPy's products and compiled kernels release Python's lock, so plain threads suffice. Work is cut
by shapes alone, never by the number of threads: results are the same bits for any number."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context, copy_context
from operator import index
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias

# Does the parts from one number up to another, not including it; the last is the thread's own.
Work: TypeAlias = Callable[[int, int, int], None]
WORTHWHILE = 1 << 24  # multiply-accumulates that pay for waking a thread, which takes 0.1 ms


class _Task:
    """Some parts of a piece of work, in the context of whoever asks for it."""

    def __init__(self, work: Work, first: int, last: int) -> None:
        self.work: Work | None = work
        self.first, self.last = first, last
        self.context: Context = copy_context()
        self.error: BaseException | None = None
        self.ended = Event()

    def run(self, worker: int) -> None:
        """Do the parts, and drop the work before anybody continues."""
        try:
            self.context.run(self.work or _nothing, self.first, self.last, worker)
        except BaseException as error:
            self.error = error
        self.work = None
        self.ended.set()


def _nothing(first: int, last: int, worker: int) -> None:
    """Do no work."""


class _Worker:
    """A thread that waits for its share."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tasks: SimpleQueue[_Task] = SimpleQueue()
        Thread(target=self._run, name=f"tallygrad-{number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            # Nothing of a task is kept while the next one is waited for.
            self.tasks.get().run(self.number)


class _Crew:
    """The threads of this process: the caller's own, and workers beside it."""

    def __init__(self) -> None:
        self.size = 1
        self.workers: list[_Worker] = []
        self.busy = Lock()

    def share(self, parts: int, work: Work) -> None:
        """Do `parts` parts of a piece of work with the threads there are, see `share`."""
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
        """Do the work with some workers; return, or raise the first error, after all have ended."""
        borders = [parts * i // (len(workers) + 1) for i in range(len(workers) + 2)]
        tasks = [_Task(work, *borders[i : i + 2]) for i in range(1, len(workers) + 1)]
        begun: list[_Task] = []
        failed: BaseException | None = None
        try:
            for worker, task in zip(workers, tasks, strict=True):
                begun.append(task)
                worker.tasks.put(task)
            work(0, borders[1], 0)
        except BaseException as error:
            failed = error
        for task in begun:
            # Whatever comes in between, the memory that others work on must stay until they end.
            while not task.ended.is_set():
                try:
                    task.ended.wait()
                except BaseException as error:
                    failed = failed or error
            failed = failed or task.error
        if failed is not None:
            try:
                raise failed
            finally:
                del failed, tasks, begun


_crew = _Crew()


def _forked() -> None:
    """Start afresh in a child of `fork`, which has only the thread that forked."""
    global _crew
    size, _crew = _crew.size, _Crew()
    _crew.size = size


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def get_num_threads() -> int:
    """Return how many threads share the work of one call."""
    return _crew.size


def set_num_threads(count: int) -> None:
    """Let `count` threads share the work of one call; 1 until this is called.

    Results do not depend on it. ValueError below 1, TypeError for what is no integer."""
    if index(count) < 1:
        raise ValueError(f"set_num_threads: expected at least 1 thread, got {count}")
    _crew.size = index(count)


def share(parts: int, work: Work) -> None:
    """Do `parts` independent parts of a piece of work.

    `work(first, last, worker)` does those from `first` up to `last`, not including it; no two at
    the same time have the same worker, a number below `get_num_threads()`. One thread does all in
    one call, as worker 0, and so does a second caller while the threads are busy: memory by worker
    must belong to one call at a time. What a part computes must not depend on the ranges. An error
    in a thread is raised here, after all have ended."""
    _crew.share(parts, work)
