"""`tallygrad eval`: loss and metric of a checkpoint over a data set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..parser import integer
from . import flags, ranks
from .checkpoints import CheckpointOptions

LESS_MEMORY = "take a smaller --batch-size"


@dataclass(frozen=True, kw_only=True)
class EvalOptions(CheckpointOptions):
    """The options of `tallygrad eval`."""

    batch_size: int
    as_json: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to evaluate, on what, and how to print it."""
    flags.add_checkpoint(parser)
    parser.add_argument("--batch-size", type=integer, default=256, help="images per step")
    flags.add_json(parser)


def run(values: Mapping[str, Any]) -> int:
    """Evaluate a checkpoint on all ranks; return the exit status."""
    options = EvalOptions(**values)
    with ranks.join("eval", options.threads, values, LESS_MEMORY) as (comm, _):
        from ..inference import evaluate_checkpoint

        evaluate_checkpoint(comm, options, options.batch_size, options.as_json)
    return 0
