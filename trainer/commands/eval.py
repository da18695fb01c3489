"""`tallygrad eval`: loss and accuracy of a checkpoint over a data set."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import integer
from . import flags, ranks

LESS_MEMORY = "take a smaller --batch-size"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to evaluate, on what, and how to print it."""
    flags.add_checkpoint(parser)
    parser.add_argument("--batch-size", type=integer, default=256, help="images per step")
    flags.add_json(parser)


def run(options: dict[str, Any]) -> int:
    """Evaluate a checkpoint on all ranks; return the exit status."""
    with ranks.meet("eval", options.pop("threads"), options, LESS_MEMORY) as (comm, _):
        from ..inference import evaluate_checkpoint

        evaluate_checkpoint(comm, **options)
    return 0
