"""`tallygrad cost`: what a model costs, without data and without running it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost.precision import INFERENCE
from ..errors import UserError, show
from ..parser import integer
from ..user_code import same
from . import flags
from .chosen_model import ModelOptions

if TYPE_CHECKING:
    from ..cost.machines.machine import Machine
    from ..cost.sparsity import Zeros
    from ..cost.workload import Work

LESS_MEMORY = "take a smaller --batch"


@dataclass(frozen=True, kw_only=True)
class CostOptions(ModelOptions):
    """The options of `tallygrad cost`; "" is what was not given."""

    training: bool
    optimizer: str
    machine: str
    zeros: str
    ranks: int
    as_json: bool
    as_csv: bool
    html: str
    force: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the machine that prices it, and how to print it."""
    parser.add_argument(
        "--machine", default="", help="price the counts on a machine: a name or FILE.toml"
    )
    parser.add_argument(
        "--zeros",
        default="",
        metavar="RUN|FILE",
        help="shares of zeros, which some machines use: from a run with --sparsity, or a file",
    )
    parser.add_argument(
        "--ranks", type=integer, default=1, help="count the gradient exchange of one of N ranks too"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    form.add_argument("--csv", dest="as_csv", action="store_true", help="print one line per layer")
    flags.add_model(parser, batch=1, precisions=INFERENCE)
    parser.add_argument(
        "--training", action="store_true", help="count a training step instead of inference"
    )
    flags.add_optimizer(parser)
    flags.add_page(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print the cost of a model. UserError for options that do not fit."""
    options = CostOptions(**values)
    from ..calibration.host import load
    from ..cost.pricing import cost_report
    from ..cost.report.pages import of_cost
    from ..cost.report.text import as_csv, as_text

    if options.ranks < 1:
        raise UserError(f"--ranks: expected at least 1, got {options.ranks}")
    model, optimizer = options.resolve(), flags.optimizer(options.optimizer, options.training)
    work = model.count(options.batch, options.training, optimizer)
    page = flags.page_file(options.html, options.force)
    if options.zeros and not options.machine:
        raise UserError("--zeros: expected a --machine too: zeros matter to machines only")
    machine = load(options.machine, work.precision) if options.machine else None
    zeros = _zeros(options.zeros, machine, work) if machine and options.zeros else None
    report = cost_report(work, options.ranks, machine, zeros)
    if page:
        page.write(of_cost(report, machine))
    if options.as_json:
        print(json.dumps(report.to_json(), indent=1))
    elif options.as_csv:
        print(as_csv(report), end="")
    else:
        show(as_text(report))
    return 0


def _zeros(name: str, machine: Machine, work: Work) -> Zeros:
    """Return the shares of zeros of a run folder, a checkpoint or a file. UserError where the
    machine takes none."""
    from ..cost.machines.machine import kinds
    from ..cost.sparsity import from_file

    if not machine.uses_zeros:
        coded = " or ".join(kind for kind, cls in kinds().items() if cls.uses_zeros)
        raise UserError(
            f"--zeros: expected a machine of kind {coded}, got {machine.name} of kind "
            f"{machine.kind}"
        )
    layers = [layer.name for layer in work.layers if layer.macs("forward")]
    if Path(name).suffix in (".toml", ".json"):
        return from_file(name, work.model, layers)
    return _zeros_of_run(name, work.model, layers)


def _zeros_of_run(name: str, expected: str, layers: list[str]) -> Zeros:
    """Return the shares that a run sampled. UserError for a run of another model."""
    from ..components.checkpoint import load, newest_checkpoint  # h5py
    from ..components.state import read_ledger, recorded
    from ..cost.sparsity import from_run

    file = newest_checkpoint(Path(name))
    meta = load(file).meta
    model = recorded(file, meta, "model", str)
    if not same(model, expected):
        raise UserError(f"--zeros {name}: expected a run of {expected}, got a run of {model}")
    steps = recorded(file, meta, "step", int)
    return from_run(name, read_ledger(file, meta), steps, model, layers)
