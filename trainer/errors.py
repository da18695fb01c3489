"""Errors that a user can mend: shown as one line, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable

LISTED = 24  # names that a message may list


class UserError(Exception):
    """One clear line for the user; the process ends with `status`."""

    status: int = 2


class NotFinite(UserError):
    """The loss or a gradient is NaN or infinite."""

    status = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name that is near, else a list of them, which
    stays away where it would be long."""
    # Not at the top: this module is loaded before threads are settled, and that one loads NumPy.
    from ..autograd.suggest import closest

    names = list(known)
    close = closest(name, names)
    if close:
        return f"; did you mean {close!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= LISTED else ""
