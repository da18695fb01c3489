"""`tallygrad launch`: start ranks on this host, or on named hosts."""

from __future__ import annotations


def run(arguments: list[str]) -> int:
    """Start a command on ranks; return the exit status. The launcher parses its own arguments: it
    needs the standard library only, and runs where NumPy does not."""
    from ...launch.cli import run as launch

    return launch(arguments)
