"""`tallygrad plan`: what a step takes on more ranks than there are here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import CHOICES
from ..cost.cluster.allreduce import ALGORITHMS, HALVED
from ..cost.cluster.compression import parse_compress
from ..cost.cluster.network import MARK
from ..cost.cluster.transfers import ExchangeSettings
from ..distributed.launchers import expected_size
from ..errors import UserError, nearest, show
from ..files import OutputFile
from ..parser import integer
from . import flags
from .chosen_model import ChosenModel, ModelOptions
from .ranks import Start, join, launcher

LESS_MEMORY = "take a smaller --batch"
MOST_SECONDS = 20.0
MOST_RANKS = 1 << 20
LEAST_BUCKET, MOST_BUCKET = 0.001, 1e6  # MB
SCALINGS = ("weak", "strong")
CHOSEN = ("auto", "mpi", *ALGORITHMS)


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ModelOptions):
    """The options of `tallygrad plan`; "" and, of `ranks_per_host`, 0 are what was not given."""

    ranks: str
    network: str
    ranks_per_host: int
    scaling: str
    algorithm: str
    overlap: str
    bucket_mb: float
    shard_optimizer: bool
    sync_batch_norm: bool
    local_steps: int
    micro_batches: int
    compress: str
    machine: str
    seconds: float
    save: str
    check: bool
    as_json: bool
    force: bool
    worker: str

    @property
    def exchange(self) -> ExchangeSettings:
        """How `train` exchanges gradients; the least bytes of a bucket are rounded as the trainer
        rounds them."""
        least = int(self.bucket_mb * 1e6)
        return ExchangeSettings(
            least, self.algorithm, self.overlap, self.shard_optimizer,
            local_steps=self.local_steps, micro_batches=self.micro_batches,
        )  # fmt: skip

    @property
    def saved(self) -> OutputFile | None:
        """The file of `--save`, None where it is not wanted."""
        if not self.save:
            return None
        return OutputFile("--save", Path(self.save), "a network", MARK, self.force)


class PlanRequest(NamedTuple):
    """What is to be planned: options that were checked, the model, the numbers of ranks in
    ascending order, and the scalings, "weak", "strong" or both."""

    options: PlanOptions
    model: ChosenModel
    ranks: Sequence[int]
    scalings: Sequence[str]

    @property
    def most(self) -> int:
        """The largest number of ranks."""
        return self.ranks[-1]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the ranks to plan for, what joins them, and how to print the plan."""
    parser.add_argument(
        "--ranks", default="1,2,4,8,16,32,64", metavar="P,P,..", help="numbers of ranks"
    )
    parser.add_argument(
        "--network", default="calibrate", metavar="NAME|FILE",
        help="network between hosts, or a saved calibration (default: only this host, measured)",
    )  # fmt: skip
    parser.add_argument(
        "--ranks-per-host", type=integer, default=0, help="default: that of --network"
    )
    parser.add_argument("--scaling", default="weak", choices=(*SCALINGS, "both"),
                        help="--batch is per rank (weak) or for all ranks (strong)")  # fmt: skip
    parser.add_argument(
        "--algorithm", default="auto",
        help="allreduce algorithm; mpi: the fastest of MPI's by formula (default: as train sums)",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", default="auto", choices=CHOICES["overlap"],
        help="what drives an exchange while ranks compute, as in train",
    )  # fmt: skip
    parser.add_argument("--bucket-mb", type=float, default=1.0, help="as in train")
    parser.add_argument(
        "--micro-batches", type=integer, default=0, metavar="N",
        help="micro-batches of a step over all ranks (default: one a rank)",
    )  # fmt: skip
    parser.add_argument("--local-steps", type=integer, default=0, metavar="H", help="as in train")
    parser.add_argument("--compress", default="none", metavar="SCHEME", help="as in train")
    for name in ("--shard-optimizer", "--sync-batch-norm"):
        on_off = argparse.BooleanOptionalAction
        parser.add_argument(name, action=on_off, default=False, help="as in train")
    parser.add_argument(
        "--machine", default="", help="also predict energy, on a machine: a name or FILE.toml"
    )
    parser.add_argument(
        "--seconds", type=float, default=16.0, help="seconds to measure, at most 20"
    )
    parser.add_argument("--save", default="", metavar="FILE", help="save the calibration as TOML")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check the prediction against a measured step on this host (default: yes)",
    )
    flags.add_json(parser)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    flags.add_model(parser, batch=64)
    flags.add_force(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print a plan, or measure as one of the ranks that another process's plan started; return the
    exit status."""
    options = PlanOptions(**values)
    if options.worker:
        with join("plan", 1, values, LESS_MEMORY) as (comm, _):
            from ..calibration import measure

            measure.worker(comm, Path(options.worker))
        return 0
    return print_plan(options, *launcher())


def print_plan(options: PlanOptions, start: Start | None, why: str = "") -> int:
    """Print a plan. `start` runs a command on ranks of this host; without it, for the reason
    `why`, no link can be measured. UserError for options that do not fit."""
    request = _request(options)
    from ..cost.report.plan_text import as_text
    from .planning import plan

    report = plan(request, start, why)
    show(json.dumps(report.to_json(), indent=1) if options.as_json else as_text(report))
    return 0


def _request(options: PlanOptions) -> PlanRequest:
    """Return what the options ask for. UserError for options out of range."""
    model, ranks = options.resolve(), flags.numbers("--ranks", options.ranks, MOST_RANKS)
    scalings = SCALINGS if options.scaling == "both" else (options.scaling,)
    _check_ranges(options)
    _check_combinations(options)
    if scalings == ("strong",) and ranks[0] > options.batch:
        raise UserError(
            f"--ranks: expected at most the {options.batch} images of --batch, got {ranks[0]}"
        )
    if file := options.saved:
        file.check()
    if expected_size() is not None:
        raise UserError("plan: run it without mpirun; it starts ranks by itself")
    return PlanRequest(options, model, ranks, scalings)


def _check_ranges(options: PlanOptions) -> None:
    algorithm, seconds, megabytes = options.algorithm, options.seconds, options.bucket_mb
    if algorithm not in CHOSEN:
        raise UserError(f"--algorithm: unknown value {algorithm!r}{nearest(algorithm, CHOSEN)}")
    if options.shard_optimizer and algorithm not in ("auto", "mpi", *HALVED):
        raise UserError(
            f"--algorithm: expected one of auto, mpi, {', '.join(HALVED)} with --shard-optimizer, "
            f"got {algorithm}"
        )
    if not 0 < seconds <= MOST_SECONDS:
        raise UserError(f"--seconds: expected above 0 and at most {MOST_SECONDS:g}, got {seconds}")
    if not LEAST_BUCKET <= megabytes < MOST_BUCKET:
        raise UserError(
            f"--bucket-mb: expected at least {LEAST_BUCKET} and less than {MOST_BUCKET:g}, got "
            f"{megabytes}"
        )
    if options.ranks_per_host < 0:
        raise UserError(
            f"--ranks-per-host: expected at least 1, or 0 for the network's, got "
            f"{options.ranks_per_host}"
        )


def _check_combinations(options: PlanOptions) -> None:
    """UserError for micro-batches and local steps below 0, or beside what excludes them."""
    try:
        compresses = parse_compress(options.compress)[0] != "none"
    except ValueError as error:
        raise UserError(f"--compress: {error}") from error
    together = {"--sync-batch-norm": options.sync_batch_norm}
    alone = {**together, "--shard-optimizer": options.shard_optimizer, "--compress": compresses}
    together["--local-steps"] = options.local_steps > 0
    for name, count, others in (
        ("--local-steps", options.local_steps, alone),
        ("--micro-batches", options.micro_batches, together),
    ):  # fmt: skip
        if count < 0:
            raise UserError(f"{name}: expected at least 0, got {count}")
        for other, given in others.items():
            if count and given:
                raise UserError(f"{name}: expected 0 with {other}, got {count}")
