"""End the whole job when one rank fails: the others would wait for it in a collective for ever."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from ..errors import Interrupted, UserError, printable
from .comm import PATIENCE, Comm

DRAIN = 0.3  # seconds for the launcher to pass the last lines on, which an abort can overtake


@contextmanager
def guard(comm: Comm) -> Iterator[None]:
    """End every rank as soon as the block fails in this one.

    Errors of the user (UserError, the datasets' DataError among them) print one line
    `tallygrad: error: ...` and end with their status, 2 unless they say otherwise; an interrupt
    ends with 130, another signal with 128 and its number; anything else prints this rank's
    traceback and ends with 1. SystemExit keeps its status, and passes when that is 0.
    """
    try:
        yield
    except SystemExit as end:
        if end.code is None or end.code == 0:
            raise
        if isinstance(end.code, int):
            _end(comm, end.code, "", shared=True)
        _end(comm, 1, f"{end.code}\n", shared=True)
    except KeyboardInterrupt as error:
        by = Interrupted.of(error)
        _end(comm, by.status, f"tallygrad: {by}\n", shared=True)
    except BrokenPipeError:
        _end(comm, 141, "", shared=True)  # whoever read our output has seen enough
    except BaseException as error:
        if not isinstance(error, UserError):
            _end(comm, 1, _rank_traceback(error, comm.rank), shared=False)
        _end(comm, error.status, f"tallygrad: error: {error}\n", shared=True)


def _rank_traceback(error: BaseException, rank: int) -> str:
    """Mark every line, because the ranks' lines arrive mixed."""
    text = "".join(traceback.format_exception(error))
    return "".join(f"[rank {rank}] {printable(line)}\n" for line in text.splitlines())


def _end(comm: Comm, status: int, text: str, shared: bool) -> NoReturn:
    """Print `text` and end all ranks; what the ranks share is left to rank 0 for a moment."""
    try:
        if shared and comm.rank > 0:
            time.sleep(PATIENCE)
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
