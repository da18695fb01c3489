"""`tallygrad verify`: whether a training gives the same bits on any number of ranks and threads of
this host."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import CHOICES
from ..distributed.launchers import expected_size
from ..errors import UserError, show
from ..parser import integer
from ..threads import MOST_THREADS
from . import flags
from .ranks import join, launcher

DESCRIPTION = """Train for some steps on several numbers of ranks and threads, and compare all bits.
Status 0: all are the same, and a training that must differ does; otherwise 1."""
LESS_MEMORY = "take a smaller --batch-size, or fewer --ranks"
MOST_RANKS = 1024


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `tallygrad verify`; `ranks` and `threads` are lists such as "1,2"."""

    model: str
    dataset: str
    data_dir: str
    ranks: str
    threads: str
    batch_size: int
    micro_batches: int
    steps: int
    backend: str
    precision: str
    as_json: bool
    worker: str
    model_args: str = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to train, and on how many ranks and threads."""
    parser.add_argument("--model", default="lenet", help="as in train (default: lenet)")
    flags.add_model_args(parser)
    parser.add_argument("--dataset", default="digits", help="data set (default: digits)")
    parser.add_argument("--data-dir", default="", help="folder to search first for data files")
    parser.add_argument(
        "--ranks", default="1,2,3,4", metavar="P,P,..", help="numbers of ranks (default: 1,2,3,4)"
    )
    parser.add_argument(
        "--threads", default="1,2", metavar="T,T,..", help="threads per rank (default: 1,2)"
    )
    parser.add_argument("--batch-size", type=integer, default=64, help="as in train (default: 64)")
    parser.add_argument("--micro-batches", type=integer, default=8, help="as in train (default: 8)")
    parser.add_argument(
        "--steps", type=integer, default=30, help="steps of each training (default: 30)"
    )
    parser.add_argument("--backend", default="auto", choices=CHOICES["backend"], help="as in train")
    flags.add_precision(parser)
    flags.add_json(parser)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)


def run(values: Mapping[str, Any]) -> int:
    """Compare trainings, or train as one of the ranks that another process's comparison started;
    return the exit status."""
    options = VerifyOptions(**values)
    if options.worker:
        return _work(Path(options.worker), values)
    ranks = flags.numbers("--ranks", options.ranks, MOST_RANKS)
    threads = flags.numbers("--threads", options.threads, MOST_THREADS)
    _check_ranges(options)
    from .verifying import verify

    report = verify(options, ranks, threads, *launcher())
    show(json.dumps(report.to_json(), indent=1) if options.as_json else report.as_text())
    return 0 if report.is_sound else 1


def _work(folder: Path, values: Mapping[str, Any]) -> int:
    from ..calibration.outcome import TRIAL

    threads = json.loads((folder / TRIAL).read_text("utf-8"))["threads"]
    with join("verify", threads, values, LESS_MEMORY) as (comm, _):
        from ..calibration import trial

        trial.worker(comm, folder)
    return 0


def _check_ranges(options: VerifyOptions) -> None:
    """UserError for options out of range."""
    least = {"--steps": (options.steps, 2), "--micro-batches": (options.micro_batches, 1)}
    for flag, (value, low) in least.items():
        if value < low:
            raise UserError(f"{flag}: expected at least {low}, got {value}")
    if options.batch_size < max(options.micro_batches, 2):
        raise UserError(
            f"--batch-size: expected at least {max(options.micro_batches, 2)}, an image for each "
            f"of --micro-batches, got {options.batch_size}"
        )
    if expected_size() is not None:
        raise UserError("verify: run it without mpirun; it starts ranks by itself")
