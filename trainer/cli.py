"""The command line: `tallygrad COMMAND ...`. Each command is a module of `commands`, which has its
options (`add_flags`) and its work (`run`); `commands.dispatch` parses, starts it and reports."""

from __future__ import annotations

from collections.abc import Sequence

from .commands import dispatch
from .commands.dispatch import Command

COMMANDS = {
    "train": Command("train a model", joint=True),
    "eval": Command("evaluate a checkpoint on a data set", joint=True),
    "predict": Command("apply a checkpoint to images", joint=True),
    "inspect": Command("show the contents of a checkpoint"),
    "models": Command("list the models"),
    "data": Command("pack a data set into one file, show or check one"),
    "cost": Command("count the work of a model, layer by layer, without running it"),
    "profile": Command("measure the time of each layer on this host"),
    "verify": Command("compare the bits of trainings on several ranks and threads"),
    "plan": Command("predict the step time on more ranks"),
    "bill": Command("show what a whole run has cost"),
    "launch": Command("run train or eval on several ranks", parses=True),
    "supervise": Command("run train on several ranks, through failures", parses=True),
    "doctor": Command("check MPI, hosts, libraries and the run folder", joint=True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 for what the user can mend, 3 for a loss that is
    not finite, 1 for a fault of ours."""
    return dispatch.main(COMMANDS, arguments)
