"""`tallygrad cost`: what a model costs, without data and without running it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from ...autograd import models
from ..errors import UserError, show
from ..numbers import whole_number
from .machine import ARRAYS, CODED, HOST, Machine, load
from .metrics import as_text as metrics_text
from .metrics import of_model
from .page import page_file
from .pages import of_cost
from .table import as_csv, as_text, describe
from .work import PHASES, Work, count
from .zeros import Zeros
from .zeros import read as read_zeros

Price: TypeAlias = dict[str, float]
RATES = ("active_pes", "utilization")  # which are not added up


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
    if machine.kind not in CODED:
        kinds = " or ".join(CODED)
        raise UserError(f"--zeros: machine {machine.name} is of kind {machine.kind}, not {kinds}")
    layers = [layer.name for layer in work.layers if layer.macs("forward")]
    return read_zeros(name, work.model, layers)


def price(
    described: dict[str, Any], work: Work, machine: Machine, zeros: Zeros | None = None
) -> None:
    """Add what a machine makes of the work to the description: of each layer and pass, and of all
    of it."""
    described["machine"] = {
        "name": machine.name, "kind": machine.kind, "source": machine.source, "note": machine.note
    }  # fmt: skip
    sums: dict[str, list[Price]] = {phase: [] for phase in PHASES}
    for entry, layer in zip(described["layers"], work.layers, strict=True):
        known = zeros.of(layer.name) if zeros else None
        prices = {phase: machine.price_layer(layer, phase, known) for phase in PHASES}
        entry["passes"] = {phase: price for phase, price in prices.items() if price}
        for phase, price in entry["passes"].items():
            sums[phase].append(price)
    if machine.kind == HOST:
        energy = {} if machine.has_energy else {"energy_joules": "not available"}
        described["machine"] |= {"measured": {**machine.numbers}, **energy}
    if machine.kind in CODED:
        described["machine"]["zeros"] = _taken(work, zeros)
    if machine.kind not in ARRAYS:
        sums["update"].append(machine.price(work.phase("update")))  # which is no layer's
    totals = described["totals"]
    totals["on_machine"] = {"inference": add_up(sums["forward"])}
    if "training" in totals:
        every = [price for prices in sums.values() for price in prices]
        totals["on_machine"]["training"] = add_up(every)


def _taken(work: Work, zeros: Zeros | None) -> dict[str, Any]:
    """Return where zeros are from, and which layers are taken to have none."""
    named = [layer.name for layer in work.layers if layer.macs("forward")]
    dense = [name for name in named if zeros is None or zeros.of(name) is None]
    return {"source": zeros.source if zeros else None, "without": dense}


def add_up(prices: list[Price]) -> Price:
    """Return the sums of what can be added up."""
    keys = dict.fromkeys(key for price in prices for key in price if key not in RATES)
    found: Price = {}
    for key in keys:
        values = [price.get(key, 0) for price in prices]
        whole = all(isinstance(value, int) for value in values)
        found[key] = sum(values) if whole else math.fsum(values)
    return found
