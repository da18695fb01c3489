"""`tallygrad profile`: where the time of a step goes on this machine, by layer and pass, beside
what its arithmetic and its memory allow (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from math import prod
from typing import Any

from ..calibration.kernels import default_backend, measure, profile_report
from ..calibration.roofs import calibrate
from ..config import integer
from ..cost.report.pages import of_profile
from ..cost.report.profile_text import as_text
from ..cost.workload import Work, count
from ..errors import UserError, show
from ..memory import check_memory
from . import flags
from .cost import input_and_classes

LESS_MEMORY = "take a smaller --batch"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, what to measure, and how to print it."""
    flags.add_model(parser, batch=1)
    parser.add_argument("--training", action="store_true", help="a step of training, not inference")
    parser.add_argument("--steps", type=integer, default=5, help="steps to measure")
    parser.add_argument("--backend", default="", help="default: llvm:eager, else numpy")
    flags.add_json(parser)
    flags.add_page(parser)


def run(options: Mapping[str, Any]) -> int:
    """Print where the time goes. UserError for options that do not fit."""
    if options["steps"] < 1:
        raise UserError(f"--steps: {options['steps']} is less than 1")
    shape, classes = input_and_classes(options)
    page = flags.page_file(options)
    model, batch, training = options["model"], options["batch"], options["training"]
    backend = options["backend"] or default_backend()
    try:
        _check_room(count(model, batch, shape, classes, training))
        rows, energy = measure(model, batch, shape, classes, training, backend, options["steps"])
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    report = profile_report(model, batch, backend, rows, calibrate(), energy)
    if page:
        page.write(of_profile(report))
    show(json.dumps(report.to_json(), indent=1) if options["as_json"] else as_text(report))
    return 0


def _check_room(work: Work) -> None:
    """UserError where a step's numbers, of four bytes each, do not fit into the memory."""
    copies = 3 if work.phase("update").mul else 1  # of weights: gradients and momentum
    numbers = work.batch * prod(work.input) + copies * work.parameters
    what = "images, weights and the results that are alive at once"
    check_memory("--batch", 4 * numbers + work.peak, what, work.batch)
