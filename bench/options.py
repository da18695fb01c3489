"""The command line. Loads neither NumPy nor torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NoReturn

from tallygrad.trainer.errors import UserError
from tallygrad.trainer.files import OutputFile

from .cases import CASES, MODELS, MODES, TORCH_MODES, Case, find

MARK = '{\n "host": {'  # files of results begin with it


@dataclass(frozen=True)
class Options:
    """What to measure, and how long. `rounds` counts if given, `seconds` for each case and mode
    otherwise; None for `backend` is the best, for `core` any."""

    cases: tuple[Case, ...]
    modes: tuple[str, ...]
    torch_modes: tuple[str, ...]
    backend: str | None
    rounds: int | None
    seconds: float
    json: Path | None
    force: bool
    profile: bool
    core: int | None

    def output(self) -> OutputFile | None:
        """Return the file of `--json`, if one is wanted."""
        return OutputFile("--json", self.json, "results", MARK, self.force) if self.json else None

    def work(self) -> list[tuple[Case, str]]:
        """Return the pairs of case and mode to measure."""
        return [(case, mode) for case in self.cases for mode in self.modes if mode in case.modes]


class UsageError(Exception):
    """The command asks for what cannot be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message for a name that is none of the known ones."""
    return f"{kind} {name!r} is unknown; there are {', '.join(known)}"


def _names(kind: str, known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of names with commas between them; each counts once."""

    def read(text: str) -> tuple[str, ...]:
        names = dict.fromkeys(part.strip() for part in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(unknown(kind, name, known))
        return tuple(names)

    return read


def _cases(text: str) -> tuple[Case, ...]:
    names = _names("case", (*CASES, *MODELS))(text)
    return tuple(dict.fromkeys(case for name in names for case in find(name)))


def _torch_modes(text: str) -> tuple[str, ...]:
    return () if text == "none" else _names("torch mode", (*TORCH_MODES, "none"))(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _core(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the number of a core, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    about = "Measure training and inference of some models, ours and torch's in turn."
    parser = _Parser("python -m bench", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--cases", type=_cases, default=tuple(CASES.values()), metavar="A,B",
        help=f"cases, or models for all their cases: {', '.join(CASES)}")  # fmt: skip
    add("--modes", type=_names("mode", MODES), default=MODES, metavar="A,B",
        help="train, infer (default: both)")  # fmt: skip
    add("--torch-modes", type=_torch_modes, default=TORCH_MODES, metavar="A,B",
        help=f"{', '.join(TORCH_MODES)} (default: all of them), or none")  # fmt: skip
    add("--backend", help="ours (default: llvm where it loads, else numpy)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=_count, metavar="N", help="rounds for each case and mode")
    length.add_argument("--seconds", type=_positive, default=10.0, metavar="S",
        help="seconds for each case and mode, warming up not counted (default: 10)")  # fmt: skip
    add("--core", type=_core, metavar="K", help="core to run on (default: the last allowed one)")
    add("--profile", action="store_true", help="print where our time goes, by primitive")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    add("--force", action="store_true", help="let --json replace a file of other content")
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line. SystemExit with status 2 and one line for what cannot be done."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if not options.work():
        names = ", ".join(case.name for case in options.cases)
        parser.error(f"{names} has no mode {', '.join(options.modes)}; there is infer")
    if file := options.output():
        try:
            file.check()
        except UserError as error:
            parser.error(str(error))
    return options
