"""`tallygrad cost`: what a model costs, without data and without running it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...autograd import models
from ..calibration.host import load
from ..config import integer
from ..cost.machines.machine import Machine, kinds
from ..cost.pricing import cost_report
from ..cost.report.pages import of_cost
from ..cost.report.text import as_csv, as_text
from ..cost.sparsity import Zeros, from_file, from_run
from ..cost.workload import Work, count
from ..errors import UserError, show
from ..numbers import whole_number
from . import flags

LESS_MEMORY = "take a smaller --batch"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the machine that prices it, and how to print it."""
    parser.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    parser.add_argument(
        "--zeros",
        default="",
        metavar="RUN|FILE",
        help="shares of zeros for the machine: of a run with --sparsity, or of FILE.toml or .json",
    )
    parser.add_argument("--ranks", type=integer, default=1, help="ranks that share the gradients")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    form.add_argument("--csv", dest="as_csv", action="store_true", help="print a line a layer")
    flags.add_model(parser, batch=1)
    parser.add_argument("--training", action="store_true", help="a step of training, not inference")
    flags.add_page(parser)


def run(options: Mapping[str, Any]) -> int:
    """Print the cost of a model. UserError for options that do not fit."""
    work, page = _work(options), flags.page_file(options)
    if options["zeros"] and not options["machine"]:
        raise UserError("--zeros: zeros are a matter of machines; give a --machine")
    machine = load(options["machine"]) if options["machine"] else None
    zeros = _zeros(options["zeros"], machine, work) if machine and options["zeros"] else None
    report = cost_report(work, options["ranks"], machine, zeros)
    if page:
        page.write(of_cost(report, machine))
    if options["as_json"]:
        print(json.dumps(report.to_json(), indent=1))
    elif options["as_csv"]:
        print(as_csv(report), end="")
    else:
        show(as_text(report))
    return 0


def _work(options: Mapping[str, Any]) -> Work:
    shape, classes = input_and_classes(options)
    if options["ranks"] < 1:
        raise UserError(f"--ranks: {options['ranks']} is less than 1")
    try:
        return count(options["model"], options["batch"], shape, classes, options["training"])
    except ValueError as error:
        raise UserError(str(error)) from error


def input_and_classes(options: Mapping[str, Any]) -> tuple[tuple[int, int, int], int]:
    """Return shape of the images and number of classes, the model's own where nothing is said.
    UserError for what cannot be."""
    if options["batch"] < 1:
        raise UserError(f"--batch: {options['batch']} is less than 1")
    if options["classes"] < 0:
        raise UserError(f"--classes: {options['classes']} is less than 0")
    try:
        shape = _input(options["input"]) or models.input_shape(options["model"])
        return shape, options["classes"] or models.classes(options["model"])
    except ValueError as error:
        raise UserError(str(error)) from error


def _input(text: str) -> tuple[int, int, int] | None:
    """Return C,H,W as numbers. UserError for what is not three of them."""
    if not text:
        return None
    sizes = [whole_number(part.strip()) for part in text.split(",")]
    if len(sizes) != 3 or not all(sizes):
        raise UserError(f"--input: {text!r:.60} is not C,H,W, such as 3,224,224")
    c, h, w = (size or 0 for size in sizes)
    return c, h, w


def _zeros(name: str, machine: Machine, work: Work) -> Zeros:
    """Return the shares of zeros of a run folder, a checkpoint or a file. UserError where the
    machine takes none."""
    if not machine.uses_zeros:
        coded = " or ".join(kind for kind, cls in kinds().items() if cls.uses_zeros)
        raise UserError(f"--zeros: machine {machine.name} is of kind {machine.kind}, not {coded}")
    layers = [layer.name for layer in work.layers if layer.macs("forward")]
    if Path(name).suffix in (".toml", ".json"):
        return from_file(name, work.model, layers)
    from ..components.checkpoint import load as load_checkpoint  # which loads h5py
    from ..components.checkpoint import newest_checkpoint
    from ..components.state import read_ledger, recorded

    file = newest_checkpoint(Path(name))
    meta = load_checkpoint(file).meta
    model = recorded(file, meta, "model", str)
    if model != work.model:
        raise UserError(f"--zeros {name}: a run of {model}, not of {work.model}")
    steps = recorded(file, meta, "step", int)
    return from_run(name, read_ledger(file, meta), steps, model, layers)
