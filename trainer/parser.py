"""The parser of the command line, and the numbers that options are given."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .errors import UserError

MOST = 1 << 63  # beyond any whole number


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and that takes no abbreviations."""

    commands: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def integer(text: str) -> int:
    """Return the whole number that an option is given, for `argparse`."""
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r:.60}") from error
    if abs(value) >= MOST:
        raise argparse.ArgumentTypeError(f"expected less than {MOST}, got {text!s:.60}")
    return value
