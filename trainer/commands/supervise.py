"""`tallygrad supervise`: run a training until it is complete, through failures."""

from __future__ import annotations


def run(arguments: list[str]) -> int:
    """Supervise a training on ranks; return the exit status. Like the launcher, the supervisor
    parses its own arguments and needs the standard library only."""
    from ...launch.cli import run_supervised

    return run_supervised(arguments)
