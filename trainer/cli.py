"""The command line: `tallygrad COMMAND ...`. Each command is a module of `commands`, which has its
options (`add_flags`) and its work (`run`); `commands.dispatch` parses, starts it and reports."""

from __future__ import annotations

from collections.abc import Sequence

from .commands import dispatch
from .commands.dispatch import Command

COMMANDS = {
    "train": Command("train a model", joint=True),
    "eval": Command("evaluate a checkpoint on a data set", joint=True),
    "predict": Command("tell the classes of images", joint=True),
    "inspect": Command("show what a checkpoint holds"),
    "cost": Command("tell what a model costs, without running it"),
    "profile": Command("tell where the time of a model goes here"),
    "plan": Command("predict steps on more ranks than there are here"),
    "bill": Command("tell what a whole run cost"),
    "launch": Command("start ranks on this machine", parses=True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 for what the user can mend, 3 for a loss that is
    not finite, 1 for a fault of ours."""
    return dispatch.main(COMMANDS, arguments)
