"""`tallygrad profile`: where the time of a step goes on this host, by layer and pass, beside
what its arithmetic and its memory allow (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import UserError, show
from ..memory import check_memory
from ..parser import integer
from . import flags
from .chosen_model import ModelOptions

if TYPE_CHECKING:
    from ..cost.workload import Work

LESS_MEMORY = "take a smaller --batch"


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(ModelOptions):
    """The options of `tallygrad profile`; "" is what was not given."""

    training: bool
    optimizer: str
    steps: int
    backend: str
    as_json: bool
    html: str
    force: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, what to measure, and how to print it."""
    flags.add_model(parser, batch=1)
    parser.add_argument(
        "--training", action="store_true", help="measure a training step instead of inference"
    )
    parser.add_argument("--steps", type=integer, default=5, help="steps to measure")
    parser.add_argument(
        "--backend", default="", help="default: llvm:eager if it loads, otherwise numpy"
    )
    flags.add_optimizer(parser)
    flags.add_json(parser)
    flags.add_page(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print where the time goes. UserError for options that do not fit."""
    options = ProfileOptions(**values)
    from ..calibration import kernels, roofs
    from ..calibration.narrow import narrow
    from ..cost.report.pages import of_profile
    from ..cost.report.profile_text import as_text

    if options.steps < 1:
        raise UserError(f"--steps: expected at least 1, got {options.steps}")
    model, batch = options.resolve(), options.batch
    page = flags.page_file(options.html, options.force)
    backend = options.backend or kernels.default_backend()
    training, optimizer = options.training, flags.optimizer(options.optimizer, options.training)
    _check_room(model.count(batch, training, optimizer))
    try:
        rows, energy = kernels.measure(
            model.name, batch, model.input, model.classes, training, backend, options.steps,
            optimizer, model.precision,
        )  # fmt: skip
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    limits = roofs.calibrate()
    if model.precision != limits.precision:
        limits = narrow(model.precision, limits) or limits
    report = kernels.profile_report(
        model.name, batch, backend, rows, limits, energy, model.precision
    )
    if page:
        page.write(of_profile(report))
    show(json.dumps(report.to_json(), indent=1) if options.as_json else as_text(report))
    return 0


def _check_room(work: Work) -> None:
    """UserError where a step's float32 numbers do not fit into the memory."""
    copies = 2 + work.slots if work.training else 1  # weights; gradients and the optimizer's slots
    numbers = work.batch * prod(work.input) + copies * work.parameters
    what = "images, weights and the results that are alive at once"
    check_memory("--batch", 4 * numbers + work.peak, what, work.batch)
