"""Errors that a user can mend, shown as one line without a traceback, and the one place through
which text from files and servers comes to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from signal import SIGINT, Signals

LONGEST, TAIL = 2000, 400  # characters of a message, and of its end where it is cut


def printable(text: str) -> str:
    """Return a line without anything that could steer a terminal: what is not printable, such as
    escape sequences and marks of direction, appears as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """Return a message as a printable line of bounded length; its line breaks become spaces."""
    whole = str(text)
    if len(whole) > LONGEST:  # the reason often stands last
        whole = f"{whole[: LONGEST - TAIL]}... ({len(whole):,} characters) ...{whole[-TAIL:]}"
    return printable(" ".join(whole.splitlines()))


def show(text: str) -> None:
    """Print lines for people, which may hold names from files."""
    print("\n".join(map(printable, text.split("\n"))))


def warn(text: object) -> None:
    """Print a warning."""
    print(f"tallygrad: warning: {one_line(text)}", file=sys.stderr, flush=True)


class UserError(Exception):
    """One clear line for the user, printable and of bounded length whatever it quotes; the process
    ends with `status`."""

    status: int = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class NotFinite(UserError):
    """The loss or a gradient is NaN or infinite."""

    status = 3


class LackOfMemory(UserError):
    """What is asked for does not fit into the memory of this host, now."""

    status = 71

    @classmethod
    def of(cls, error: MemoryError, way: str) -> LackOfMemory:
        """Say what did not fit, where, and a `way` out."""
        said = [str(error) or "no more memory is available", *getattr(error, "__notes__", ())]
        line = " ".join(" ".join(said).split())
        return cls(f"not enough memory: {line}; {way}")


class OverLimit(LackOfMemory):
    """What is asked for does not fit into `--memory-limit`, wherever and whenever it is tried."""

    status = 2


class LostRank(UserError):
    """A rank that others wait for has ended, stands still or cannot be reached."""

    status = 4


class Interrupted(KeyboardInterrupt):
    """A signal that asks this process to end, which it does with `status`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {Signals(number).name}")
        self.status = 128 + number

    @classmethod
    def of(cls, error: KeyboardInterrupt) -> Interrupted:
        """Return an interrupt as one that knows its signal."""
        return error if isinstance(error, cls) else cls(SIGINT)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what completes a message about an unknown name: see `autograd.suggest.nearest`."""
    # Not at the top: this module is loaded before threads are settled, and that one loads NumPy.
    from ..autograd import suggest

    return suggest.nearest(name, known)
