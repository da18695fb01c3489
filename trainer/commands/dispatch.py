"""From the words of the command line to a command that runs, and to the exit status.

Nothing heavy is imported before a command is chosen, and of the commands only the chosen one: help
never loads MPI, and BLAS gets its number of threads before NumPy loads.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from .. import streams
from ..errors import Interrupted, UserError, nearest
from ..memory import memory_errors
from ..parser import Parser
from ..threads import configure, launched_rank

TOP = ("--help", "-h", "--version")  # options without a command
# Options of other programs that are something else here.
_RANKS = ": ranks come from the launcher, such as `tallygrad launch -n 4 -- train ...`"
ELSEWHERE = dict.fromkeys(("n", "np", "ranks", "nproc", "nproc-per-node", "world-size"), _RANKS)


class Command(NamedTuple):
    """A command: its line of help, whether ranks run it jointly (others run on rank 0 alone and
    never load MPI), and whether it parses its own arguments."""

    help: str
    joint: bool = False
    parses: bool = False


def load(name: str) -> Any:
    """Import the module of a command. It has `add_flags(parser)`, `run(options) -> status`,
    `LESS_MEMORY`, what to try where memory runs out, and perhaps `DESCRIPTION`."""
    return import_module(f".{name}", __package__)


def main(commands: Mapping[str, Command], arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    try:
        status = _run(commands, words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        status = 141  # whoever read our output has seen enough
    except KeyboardInterrupt as error:
        interrupted = Interrupted.of(error)
        print(f"tallygrad: {interrupted}", file=sys.stderr, flush=True)
        status = interrupted.status
    try:
        streams.finish()
    except UserError as error:
        print(f"tallygrad: error: {error}", file=sys.stderr, flush=True)
        status = status or error.status
    return status


def _run(commands: Mapping[str, Command], words: Sequence[str]) -> int:
    command = commands.get(next(iter(words), ""))
    if command is not None and command.parses:
        return int(load(words[0]).run(list(words[1:])))
    alone = not _is_joint(command, words)
    if alone and launched_rank():
        return 0  # rank 0 does it, and says what is wrong
    try:
        with memory_errors("free some memory"):  # a command's module loads here
            options = parse(commands, words)
        module = load(options.pop("command"))
        with memory_errors(module.LESS_MEMORY):
            return int(module.run(options))
    except BrokenPipeError:
        raise
    except Exception as error:
        from .ranks import report

        return report(error, alone)


def _is_joint(command: Command | None, words: Sequence[str]) -> bool:
    """Tell whether ranks run a command jointly; otherwise rank 0 runs it and nobody loads MPI."""
    if {"-h", "--help", "--version"} & {*words}:
        return False
    return not words or "--worker" in words or (command is not None and command.joint)


def parse(commands: Mapping[str, Command], words: Sequence[str]) -> dict[str, Any]:
    """Return the chosen command and its options. UserError for what is unknown, with the nearest
    known option."""
    _check_command(words, commands)
    top, chosen = parser(commands, words[0])
    if chosen is top:
        return vars(top.parse_args(words))
    # Intermixed: files may follow options.
    known, unknown = chosen.parse_known_intermixed_args(_without_model(words[1:], chosen))
    if unknown:
        raise _unknown(words[0], unknown[0], chosen)
    return {"command": words[0], **vars(known)}


def _without_model(words: Sequence[str], chosen: Parser) -> list[str]:
    """Return the words with NAME for `--model NAME`, where a command names models without it."""
    alone = {action.dest for action in chosen._actions if not action.option_strings}
    if not alone & {"model", "models"}:
        return [*words]
    return [word.removeprefix("--model=") for word in words if word != "--model"]


def parser(commands: Mapping[str, Command], name: str) -> tuple[Parser, Parser]:
    """Return the parser of all commands, and that of the one of a name, which alone has its flags;
    for an option in place of a name, the former twice."""
    top = Parser(
        prog="tallygrad",
        description="Train deep networks with mpirun, and count all of their work.",
    )
    top.add_argument("--version", action="version", version=f"tallygrad {_version()}")
    table = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = top
    for one, command in commands.items():
        if one != name:
            table.add_parser(one, help=command.help)
            continue
        if not command.joint:  # others settle their threads when they join
            configure()  # before NumPy loads
        module = load(one)
        description = getattr(module, "DESCRIPTION", None)
        chosen = table.add_parser(one, help=command.help, description=description)
        module.add_flags(chosen)
    return top, chosen


def _check_command(words: Sequence[str], commands: Mapping[str, Command]) -> None:
    """UserError for a first word that is no command, with the nearest."""
    if not (word := next(iter(words), "")):
        raise UserError(f"expected a command, one of {', '.join(commands)} (see tallygrad --help)")
    if word.startswith("-") and word not in TOP:
        raise UserError(f"expected a command first, got option {word}{nearest(word, TOP)}")
    if not word.startswith("-") and word not in commands:
        raise UserError(f"unknown command {word!r}{nearest(word, commands)}")


def _unknown(command: str, word: str, chosen: Parser) -> UserError:
    """Return the error for a word that no option of a command takes."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        hint = ": models are named by --model" if command == "train" else ""
        return UserError(f"{command}: unexpected argument {name!r}{hint}")
    flags = tuple(flag for action in chosen._actions for flag in action.option_strings)
    hint = ELSEWHERE.get(name.strip("-")) or nearest(name, flags)
    return UserError(
        f"{command}: unknown option {name}{hint or f' (see tallygrad {command} --help)'}"
    )


def _version() -> str:
    try:
        return version("tallygrad")
    except PackageNotFoundError:
        return "(not installed)"
