"""Errors that a user can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """One clear line for the user; the process ends with `status`."""

    status: int = 2


class NotFinite(UserError):
    """The loss or a gradient is NaN or infinite."""

    status = 3
