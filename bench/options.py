"""The command line. Imports neither NumPy nor torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NoReturn

from tallygrad.trainer.errors import UserError
from tallygrad.trainer.files import OutputFile

from .cases import CASES, DTYPES, MODELS, MODES, TORCH_MODES, Case, find

# Benchmarks of other things than single steps, each a module with `run(words) -> status`.
OTHERS = {
    "accuracy": "the test accuracy in float32 and in bf16, over several seeds",
    "gradients": "the gradients of a run in bf16 beside float32",
    "int8": "inference in int8 beside float32",
    "parts": "errors of products of float32 as sums of bfloat16 parts",
    "operations": "the results and gradients of operations beside torch's",
    "optimizers": "the weights and the times of updates beside torch's",
    "exchange": "the exchange of gradients beside a bare Allreduce (under mpirun)",
    "scaling": "steps on one rank and on all (under mpirun)",
    "verification": "steps with and without --verify-every (under mpirun)",
    "faults": "how jobs end when a rank, a host, a disk or a link fails",
    "storm": "a supervised run of which ranks are killed again and again",
    "flips": "bits that flip in ranks whose steps are verified",
    "network": "the predictions of plan beside steps over a real network",
    "simulated": "the predictions of plan beside a simulation",
    "streaming": "training on a file that is read while training, beside memory",
}
MARK = '{\n "host": {'  # the beginning of result files, by which --json recognises them


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long.

    `rounds`, if not None, replaces `seconds`, the time per case and mode. A `backend` of None is
    the best that loads, a `core` of None the last that the process may use.
    """

    cases: tuple[Case, ...]
    modes: tuple[str, ...]
    dtypes: tuple[str, ...]
    torch_modes: tuple[str, ...]
    backend: str | None
    rounds: int | None
    seconds: float
    json: Path | None
    force: bool
    profile: bool
    core: int | None

    def output(self) -> OutputFile | None:
        """Return the file of `--json`, if one was named."""
        return OutputFile("--json", self.json, "results", MARK, self.force) if self.json else None

    def work(self) -> list[tuple[Case, str]]:
        """Return the pairs of case and mode to measure."""
        return [(case, mode) for case in self.cases for mode in self.modes if mode in case.modes]

    def kinds(self) -> list[str]:
        """Return torch's modes of the types to measure."""
        return [kind for kind in self.torch_modes if TORCH_MODES[kind] in self.dtypes]


class UsageError(Exception):
    """An error of the user, in one line."""


class BenchParser(argparse.ArgumentParser):
    """A parser that reports errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def unknown(name: str, choices: Iterable[str]) -> str:
    """Return the message for a name that is not one of the choices."""
    return f"expected one of {', '.join(choices)}, got {name!r}"


def _names(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of comma-separated names, which drops repeated ones."""

    def read(text: str) -> tuple[str, ...]:
        names = dict.fromkeys(part.strip() for part in text.split(","))
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(unknown(name, choices))
        return tuple(names)

    return read


def chosen_cases(text: str) -> tuple[Case, ...]:
    """Return the cases that a list of cases and models names, for `argparse`."""
    names = _names((*CASES, *MODELS))(text)
    return tuple(dict.fromkeys(case for name in names for case in find(name)))


def _torch_modes(text: str) -> tuple[str, ...]:
    return () if text == "none" else _names((*TORCH_MODES, "none"))(text)


def positive(text: str) -> float:
    """Return a number above 0, for `argparse`."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def counted(text: str) -> int:
    """Return a whole number above 0, for `argparse`."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _core(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a core's number, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    about = "Time training and inference steps of Tallygrad and torch, in turn, on one core."
    others = [f"  {name:14}{what}" for name, what in OTHERS.items()]
    parser = BenchParser(
        "python -m bench", description=about, allow_abbrev=False,
        epilog="\n".join(["others, as `python -m bench NAME --help`:", *others]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--cases", type=chosen_cases, default=tuple(CASES.values()), metavar="A,B",
        help=f"cases, or models for all of theirs (default: all): {', '.join(CASES)}")  # fmt: skip
    add("--modes", type=_names(MODES), default=MODES, metavar="A,B",
        help="train, infer (default: both)")  # fmt: skip
    add("--dtypes", type=_names(DTYPES), default=DTYPES, metavar="A,B",
        help="float32, bf16 (default: both)")  # fmt: skip
    add("--torch-modes", type=_torch_modes, default=tuple(TORCH_MODES), metavar="A,B",
        help=f"{', '.join(TORCH_MODES)} (default: all), or none")  # fmt: skip
    add("--backend", help="Tallygrad's (default: llvm if it loads, otherwise numpy)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=counted, metavar="N", help="rounds per case and mode")
    length.add_argument("--seconds", type=positive, default=10.0, metavar="S",
        help="seconds per case and mode, without warm-up (default: 10)")  # fmt: skip
    add("--core", type=_core, metavar="K", help="core to run on (default: the last allowed)")
    add("--profile", action="store_true", help="print where Tallygrad's time goes, by primitive")
    add("--json", type=Path, metavar="FILE", help="also write the results to a file")
    add("--force", action="store_true", help="let --json replace a file that is not a result file")
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if not options.work():
        names = ", ".join(case.name for case in options.cases)
        parser.error(f"--modes: expected infer for {names}, got {', '.join(options.modes)}")
    if file := options.output():
        try:
            file.check()
        except UserError as error:
            parser.error(str(error))
    return options
