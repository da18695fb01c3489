"""`tallygrad launch`: run a trainer command on several ranks, on this host or on named ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from .attempt import LOST, Outcome, attempt, fail, record_path
from .copies import remove_left
from .hostfile import parse_hosts, read_hostfile
from .hosts import reachable, reap_on
from .job import OWN
from .mpirun import BINDINGS, LaunchError, prepare
from .supervise import Place, Policy, supervise

USAGE = "tallygrad launch [-n RANKS] [--hosts ... | --hostfile FILE] -- train ..."
USAGE_SUPERVISE = "tallygrad supervise [-n RANKS] [OPTIONS] -- train --out FOLDER ..."
COMMANDS = ("train", "eval")
MOST_RANKS = 1 << 20


class LaunchParser(argparse.ArgumentParser):
    """A parser that raises LaunchError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise LaunchError with the parser's message."""
        raise LaunchError(message)


def run(arguments: list[str]) -> int:
    """Run `tallygrad launch` with its arguments, and return the exit status (2 for an error)."""
    try:
        options, command = parse(arguments)
        line, env = prepare(options.ranks, options.hosts, command, options.bind)
    except LaunchError as error:
        return fail(str(error), 2)
    local_ranks = 0 if options.hosts else options.ranks
    outcome = attempt(line, env, command, local_ranks, options.timeout)
    if options.hosts and outcome.status:
        reap_on(parse_hosts(options.hosts), outcome.job, outcome.segments)
    _forget_copies(options.hosts, command)
    return _report(_name_silent_hosts(outcome, options.hosts))


def run_supervised(arguments: list[str]) -> int:
    """Run `tallygrad supervise` with its arguments, and return the exit status (2 for an error)."""
    try:
        options, command = parse(arguments, supervised=True)
        policy = Policy(options.retries, options.backoff)
        place = Place(options.ranks, options.hosts, options.bind)
        how = supervise(place, command, policy, options.timeout)
    except LaunchError as error:
        return fail(str(error), 2)
    _forget_copies(options.hosts, command)
    return _report(how)


def _forget_copies(hosts: str | None, command: list[str]) -> None:
    record = record_path(command)
    if hosts and record:
        remove_left(record.parent, parse_hosts(hosts))


def _name_silent_hosts(outcome: Outcome, hosts: str | None) -> Outcome:
    """Return the outcome, with a message that names the hosts that do not answer if mpirun failed
    without one: it reports such a host in words of its own, over many lines, or not at all."""
    if not hosts or outcome.message or outcome.asked or outcome.status in OWN:
        return outcome
    named = parse_hosts(hosts)
    answering = reachable(named)
    silent = ", ".join(host.name for host in named if host not in answering)
    if not silent:
        return outcome
    advice = f"`tallygrad doctor --hosts {hosts}` names the remedy"
    return Outcome(LOST, f"--hosts: no answer from {silent}; {advice}", job=outcome.job)


def _report(outcome: Outcome) -> int:
    return fail(outcome.message, outcome.status) if outcome.message else outcome.status


def parse(arguments: list[str], supervised: bool = False) -> tuple[argparse.Namespace, list[str]]:
    """Return the launcher's options and the trainer's command, which the first `--` separates.

    Raises LaunchError if either is missing or wrong.
    """
    separator = arguments.index("--") if "--" in arguments else len(arguments)
    name, usage = ("supervise", USAGE_SUPERVISE) if supervised else ("launch", USAGE)
    if "--" not in arguments and any(word in COMMANDS for word in arguments):
        raise LaunchError(f"expected -- before the trainer's command, got none; usage: {usage}")
    options = _parser(name, usage, supervised).parse_args(arguments[:separator])
    _settle_hosts(options, usage)
    command = arguments[separator + 1 :]
    if not command:
        raise LaunchError(f"expected a command after --, got none; usage: {usage}")
    if command[0] not in COMMANDS:
        raise LaunchError(f"command: expected one of {', '.join(COMMANDS)}, got {command[0]!r:.60}")
    return options, command


def _parser(name: str, usage: str, supervised: bool) -> LaunchParser:
    parser = LaunchParser(prog=f"tallygrad {name}", usage=usage, allow_abbrev=False)
    parser.add_argument("-n", dest="ranks", metavar="RANKS", type=_ranks,
                        help="number of ranks (default: what the hosts take)")  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hosts", metavar="HOST:N,...", type=_hosts,
                       help="hosts, each with its number of ranks")  # fmt: skip
    where.add_argument("--hostfile", metavar="FILE", type=Path,
                       help="file of hosts, in lines of HOST slots=N or HOST:N")  # fmt: skip
    parser.add_argument("--bind", choices=BINDINGS, default="",
                        help="what each rank is bound to (default: none, but with Open MPI a core "
                        "each if there are as many ranks as cores)")  # fmt: skip
    parser.add_argument("--timeout", metavar="S", type=_seconds,
                        help="end the job after S seconds")  # fmt: skip
    if supervised:
        _add_policy(parser)
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retries", metavar="N", type=_count, default=Policy.retries,
        help=f"attempts in a row without a new checkpoint (default: {Policy.retries})",
    )  # fmt: skip
    parser.add_argument(
        "--backoff", metavar="S", type=_seconds, default=Policy.backoff,
        help=f"seconds before a retry, doubled each time (default: {Policy.backoff:g})",
    )  # fmt: skip


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r:.60}")
    return int(text)


def _settle_hosts(options: argparse.Namespace, usage: str) -> None:
    """Turn a hostfile into `hosts`, and set the number of ranks that is not given."""
    if options.hostfile:
        options.hosts = ",".join(map(str, read_hostfile(options.hostfile)))
    if options.ranks is None and options.hosts is None:
        raise LaunchError(f"-n: expected a number of ranks, got none; usage: {usage}")
    if options.ranks is None:
        options.ranks = sum(host.slots for host in parse_hosts(options.hosts))


def _ranks(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_RANKS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_RANKS} ranks, got {text!r:.60}")
    return int(text)


def _hosts(text: str) -> str:
    try:
        parse_hosts(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r:.60}")
    return seconds
