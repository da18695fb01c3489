"""`tallygrad cost`: what a model costs, without data and without running it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from ...autograd import models
from ..calibration.host import load
from ..config import integer
from ..cost.machines.machine import Machine, kinds
from ..cost.pricing import price
from ..cost.report.metrics import as_text as metrics_text
from ..cost.report.metrics import of_model
from ..cost.report.page import page_file
from ..cost.report.pages import of_cost
from ..cost.report.text import as_csv, as_text, describe
from ..cost.sparsity import Zeros
from ..cost.sparsity import read as read_zeros
from ..cost.workload import Work, count
from ..errors import UserError, show
from ..numbers import whole_number
from . import flags

LESS_MEMORY = "take a smaller --batch"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the machine that prices it, and how to print it."""
    parser.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    parser.add_argument(
        "--zeros", default="", metavar="RUN|FILE",
        help="shares of zeros for the machine: of a run with --sparsity, or of FILE.toml or .json",
    )  # fmt: skip
    parser.add_argument("--ranks", type=integer, default=1, help="ranks that share the gradients")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    form.add_argument("--csv", dest="as_csv", action="store_true", help="print a line a layer")
    flags.add_model(parser, batch=1)
    parser.add_argument("--training", action="store_true", help="a step of training, not inference")
    flags.add_page(parser)


def run(chosen: Mapping[str, Any]) -> int:
    """Print the cost of a model. UserError for options that do not fit."""
    work, page = _work(chosen), page_file(chosen)
    described = describe(work, chosen["ranks"], chosen["training"])
    if chosen["zeros"] and not chosen["machine"]:
        raise UserError("--zeros: zeros are a matter of machines; give a --machine")
    machine = load(chosen["machine"]) if chosen["machine"] else None
    if machine is not None:
        price(described, work, machine, _zeros(chosen["zeros"], machine, work))
    described["metrics"] = of_model(described, machine)
    if page:
        page.write(of_cost(described, machine))
    if chosen["as_json"]:
        print(json.dumps(described, indent=1))
    elif chosen["as_csv"]:
        print(as_csv(described), end="")
    else:
        show(f"{as_text(described)}\n\n{metrics_text(described['metrics'])}")
    return 0


def _work(chosen: Mapping[str, Any]) -> Work:
    shape, classes = given(chosen)
    if chosen["ranks"] < 1:
        raise UserError(f"--ranks: {chosen['ranks']} is less than 1")
    try:
        return count(chosen["model"], chosen["batch"], shape, classes, chosen["training"])
    except ValueError as error:
        raise UserError(str(error)) from error


def given(chosen: Mapping[str, Any]) -> tuple[tuple[int, int, int], int]:
    """Return shape of the images and number of classes, the model's own where nothing is said.
    UserError for what cannot be."""
    if chosen["batch"] < 1:
        raise UserError(f"--batch: {chosen['batch']} is less than 1")
    if chosen["classes"] < 0:
        raise UserError(f"--classes: {chosen['classes']} is less than 0")
    try:
        shape = _input(chosen["input"]) or models.input_shape(chosen["model"])
        return shape, chosen["classes"] or models.classes(chosen["model"])
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


def _zeros(name: str, machine: Machine, work: Work) -> Zeros | None:
    """Return the shares of zeros that were asked for. UserError where the machine takes none."""
    if not name:
        return None
    if not machine.uses_zeros:
        coded = " or ".join(kind for kind, cls in kinds().items() if cls.uses_zeros)
        raise UserError(f"--zeros: machine {machine.name} is of kind {machine.kind}, not {coded}")
    layers = [layer.name for layer in work.layers if layer.macs("forward")]
    return read_zeros(name, work.model, layers)
