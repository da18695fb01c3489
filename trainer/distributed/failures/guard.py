"""End the whole job when one rank fails: the others would wait for it in a collective for ever."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from ...errors import Interrupted, LackOfMemory, UserError, one_line, printable
from ..comm import Comm
from ..launchers import PATIENCE
from .verdict import Status

DRAIN = 0.3  # seconds for the launcher to forward the last lines, which an abort can overtake
FAREWELL = 8.0  # seconds that the other ranks get to end too where one exits with status 0


class Shrunk(Exception):
    """Ranks have ended, and those that are left, in `comm`, can go on."""

    def __init__(self, comm: Comm, lost: Sequence[int]) -> None:
        self.comm, self.lost = comm, lost
        names = ", ".join(map(str, lost))
        left = f"{comm.size} rank{'s'[: comm.size > 1]}"
        super().__init__(f"lost rank {names} of {comm.size + len(lost)}; going on with {left}")


@contextmanager
def guard(
    comm: Comm, shrinks: bool = False, less_memory: str = "free some memory"
) -> Iterator[None]:
    """End every rank as soon as the block, or a thread that it leaves unwatched, fails in this one.

    Errors of the user (UserError, the datasets' DataError among them) print one line
    `tallygrad: error: ...` and end with their status, 2 unless they say otherwise. So does a lack
    of memory, with the rank, what it did, and what to try for `less_memory`. An interrupt ends with
    130, another signal with 128 and its number; anything else prints this rank's traceback and what
    it did, and ends with 1. SystemExit keeps its status; where that is 0 it passes once all ranks
    end too, and ends the job with 1 where they do not within `FAREWELL` seconds. A block that ends
    waits for those of the other ranks.

    Where it `shrinks`, the end of another rank raises `Shrunk` instead, if MPI can go on.
    """
    with _threads_too(comm, less_memory):
        try:
            with shrinking(comm, shrinks):
                yield
                comm.depart(math.inf)
        except Shrunk:
            raise
        except BaseException as error:
            fail(comm, error, less_memory)
            raise


@contextmanager
def shrinking(comm: Comm, shrinks: bool) -> Iterator[None]:
    """Raise `Shrunk` for an error in a block that tells of lost ranks, if MPI can go on."""
    try:
        yield
    except BaseException as error:
        if shrinks and (left := comm.survivors(error)):
            comm.journal.ended.set()
            raise Shrunk(*left) from error
        raise


@contextmanager
def _threads_too(comm: Comm, less_memory: str) -> Iterator[None]:
    """Have an exception that ends a thread end the job: somebody may wait for the thread's work."""

    def failed(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
            fail(comm, thread.exc_value, less_memory)

    before, threading.excepthook = threading.excepthook, failed
    try:
        yield
    finally:
        threading.excepthook = before


def fail(comm: Comm, error: BaseException, less_memory: str = "free some memory") -> None:
    """End all ranks as `guard` says; return only for an exit with status 0 that all ranks take."""
    place = comm.journal.place(error)
    if isinstance(error, MemoryError):
        error = LackOfMemory.of(error, less_memory)
    if isinstance(error, SystemExit):
        _leave(comm, error)
    elif isinstance(error, KeyboardInterrupt):
        by = Interrupted.of(error)
        _end(comm, by.status, f"tallygrad: {by}\n", shared=True)
    elif isinstance(error, BrokenPipeError):
        _end(comm, 141, "", shared=True)  # whoever read our output has seen enough
    elif isinstance(error, LackOfMemory) and comm.size > 1:  # other ranks may have more
        line = f"{_title(comm)}, {place}: {error}"
        _end(comm, error.status, f"tallygrad: error: {one_line(line)}\n", shared=True)
    elif isinstance(error, UserError):
        _end(comm, error.status, f"tallygrad: error: {error}\n", shared=True)
    else:
        text = _rank_traceback(error, comm.rank)
        if comm.size > 1:
            what = traceback.format_exception_only(error)[-1]
            line = f"{_title(comm)} failed, {place}: {what.strip()}"
            text += f"tallygrad: error: {one_line(line)}\n"
        _end(comm, 1, text, shared=False)


def _title(comm: Comm) -> str:
    """Return the rank, its host and its process."""
    journal = comm.journal
    host = socket.gethostname()
    return Status(comm.rank, host, os.getpid(), journal.step, journal.activity).title


def _leave(comm: Comm, end: SystemExit) -> None:
    if end.code is not None and not isinstance(end.code, int):  # a text, as sys.exit("..") has
        _end(comm, 1, f"{end.code}\n", shared=True)
    if end.code:
        _end(comm, end.code, "", shared=True)
    if not comm.depart(FAREWELL):
        text = f"rank {comm.rank} ended with status 0 while other ranks were at work"
        _end(comm, 1, f"tallygrad: error: {text}\n", shared=False)


def _rank_traceback(error: BaseException, rank: int) -> str:
    """Mark every line, because the ranks' lines arrive mixed."""
    text = "".join(traceback.format_exception(error))
    return "".join(f"[rank {rank}] {printable(line)}\n" for line in text.splitlines())


def _end(comm: Comm, status: int, text: str, shared: bool) -> NoReturn:
    """Print `text` and end all ranks. An error that all ranks meet alike (`shared`) is left to
    rank 0 for a moment, so that it is printed once: its abort ends the others while they wait."""
    try:
        if shared and comm.rank > 0:
            time.sleep(PATIENCE)
        comm.journal.ended.set()  # or the watchdog would call this end unexpected
        _write(sys.stdout, "")
        _write(sys.stderr, text)
        if comm.size > 1:
            time.sleep(DRAIN)
    finally:
        comm.abort(status)


def _write(stream: TextIO, text: str) -> None:
    # A closed pipe must not keep the other ranks waiting.
    with suppress(OSError, ValueError, UserError):
        stream.write(text)
        stream.flush()
