"""`tallygrad predict`: the most likely classes of images."""

from __future__ import annotations

import argparse
from typing import Any

from . import flags, ranks

LESS_MEMORY = "take fewer --samples, or images"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, the images, and how to print the classes."""
    flags.add_checkpoint(parser)
    parser.add_argument(
        "images",
        nargs="?",
        default="",
        help=".npy or IDX file of one or more images, with values 0 to 255 or 0 to 1",
    )
    parser.add_argument(
        "--samples", default="", help="samples of the data set, such as 0-9,17 (default: 0-9)"
    )
    flags.add_json(parser)


def run(options: dict[str, Any]) -> int:
    """Predict on rank 0, for which the others wait; return the exit status."""
    with ranks.meet("predict", options.pop("threads"), options, LESS_MEMORY) as (comm, _):
        from ..inference import predict

        if comm.rank == 0:
            predict(**options)
        comm.barrier()
    return 0
