"""`tallygrad predict`: what a checkpoint makes of images, such as their most likely classes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import flags, ranks
from .checkpoints import CheckpointOptions

LESS_MEMORY = "take fewer --samples, or images"


@dataclass(frozen=True, kw_only=True)
class PredictOptions(CheckpointOptions):
    """The options of `tallygrad predict`; "" is what was not given."""

    images: str
    samples: str
    as_json: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, the images, and how to print the answers."""
    flags.add_checkpoint(parser)
    parser.add_argument(
        "images",
        nargs="?",
        default="",
        help="PNG, JPEG or other picture; or a .npy or IDX file of one or more images, with values "
        "0 to 255 or 0 to 1",
    )
    parser.add_argument(
        "--samples", default="", help="samples of the data set, such as 0-9,17 (default: 0-9)"
    )
    flags.add_json(parser)


def run(values: Mapping[str, Any]) -> int:
    """Predict on rank 0, for which the others wait; return the exit status."""
    options = PredictOptions(**values)
    with ranks.join("predict", options.threads, values, LESS_MEMORY) as (comm, _):
        from ..inference import predict

        if comm.rank == 0:
            predict(options, options.images, options.samples, options.as_json)
        comm.barrier()
    return 0
