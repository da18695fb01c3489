"""Standard streams that are closed, or that take no more."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UserError


def prepare() -> None:
    """Let closed streams be /dev/null: the next file that is opened would get their number, and
    with it what is printed. From then on output that is refused is a UserError, and training goes
    on where nobody takes its progress any more."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _drop(number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _wrapped(_Output, sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _wrapped(_Progress, sys.stderr)


def finish() -> None:
    """Send what is left of the output. UserError where it is refused; where nobody reads it, it is
    dropped: Python would complain at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout.fileno())
    except UserError:
        _drop(sys.stdout.fileno())
        raise


def _drop(number: int) -> None:
    """Let what is written to a descriptor from now on go nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(null, number)
        os.close(null)


class _Output(io.TextIOWrapper):
    """Standard output: what it refuses, such as on a full disk, is told in one line."""

    def write(self, text: str) -> int:
        with _told():
            return super().write(text)

    def flush(self) -> None:
        with _told():
            super().flush()


class _Progress(io.TextIOWrapper):
    """Standard error: where it refuses, as a terminal that was closed, it is dropped."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            _drop(self.fileno())
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _drop(self.fileno())


def _wrapped(kind: type[io.TextIOWrapper], stream: io.TextIOWrapper) -> io.TextIOWrapper:
    return kind(
        stream.buffer, stream.encoding, stream.errors,
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write to standard output: {error.strerror or error}") from error
