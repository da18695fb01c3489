"""`tallygrad launch`: start a trainer command on several ranks, here or on named hosts."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from .mpirun import LaunchError, command_line, environment, find_mpirun, is_openmpi
from .supervise import fail, supervise

USAGE = "tallygrad launch -n RANKS [--hosts HOST:N,...] [--timeout S] -- train ..."
COMMANDS = ("train", "eval")
MOST_RANKS = 1 << 20
# Nothing that ssh would take for an option, and nothing that is empty.
HOST = re.compile(r"(\w[\w.-]*@)?[A-Za-z0-9][\w.-]*(:[1-9][0-9]*)?", re.ASCII)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LaunchError(message)


def run(arguments: list[str]) -> int:
    """Run `tallygrad launch` with what follows that word; return the status for the shell."""
    try:
        options, command = parse(arguments)
        mpirun = find_mpirun()
        openmpi = is_openmpi(mpirun)
        line = command_line(mpirun, openmpi, options.ranks, options.hosts, command)
    except LaunchError as error:
        return fail(str(error), 2)
    here = 0 if options.hosts else options.ranks
    return supervise(line, environment(openmpi), command, here, options.timeout)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split at the first `--` into the launcher's options and the trainer's command."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _Parser(prog="tallygrad launch", usage=USAGE, allow_abbrev=False)
    parser.add_argument("-n", dest="ranks", metavar="RANKS", type=_ranks, required=True,
                        help="number of ranks")  # fmt: skip
    parser.add_argument("--hosts", metavar="HOST:N,...", type=_hosts,
                        help="hosts, each with the ranks that it takes")  # fmt: skip
    parser.add_argument("--timeout", metavar="S", type=_seconds,
                        help="end the job after so many seconds")  # fmt: skip
    if "--" not in arguments and any(word in COMMANDS for word in arguments):
        raise LaunchError(f"put -- before the trainer's command; usage: {USAGE}")
    options = parser.parse_args(arguments[:cut])
    command = arguments[cut + 1 :]
    if not command:
        raise LaunchError(f"no command after --; usage: {USAGE}")
    if command[0] not in COMMANDS:
        raise LaunchError(f"cannot launch {command[0]!r}; choose from {', '.join(COMMANDS)}")
    return options, command


def _ranks(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_RANKS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_RANKS} ranks, got {text!r:.60}")
    return int(text)


def _hosts(text: str) -> str:
    for host in text.split(","):
        if not HOST.fullmatch(host):
            raise argparse.ArgumentTypeError(f"expected HOST or HOST:N,.., got {host!r:.60}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r:.60}")
    return seconds
