"""`tallygrad bill`: what a whole run cost, from its ledger: by phase, layer and epoch, in MACs,
bytes, joules and grams of CO2, what restarts wasted, and how many inferences cost as much."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, show
from . import flags

LESS_MEMORY = "free some memory"
MOST_CO2 = 1e6  # grams per kilowatt hour; the dirtiest grids emit about 1000


@dataclass(frozen=True, kw_only=True)
class BillOptions:
    """The options of `tallygrad bill`; "" and None are what was not given."""

    run: str
    model: str
    machine: str
    co2: float | None
    as_json: bool
    html: str
    force: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the run, the machine that prices it, and how to print it."""
    parser.add_argument("run", help="run folder or checkpoint")
    parser.add_argument(
        "--machine", default="", help="price the run on a machine: a name or FILE.toml"
    )
    flags.add_code(parser)
    parser.add_argument("--co2", type=float, metavar="G", help="grams of CO2 per kilowatt hour")
    flags.add_json(parser)
    flags.add_page(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print the bill. UserError for what cannot be read."""
    options = BillOptions(**values)
    from ..calibration.host import load, with_precision
    from ..components.recorded_run import read
    from ..cost.billing import bill_report
    from ..cost.report.bill_text import as_text
    from ..cost.report.pages import of_bill

    if options.co2 is not None and not 0 <= options.co2 < MOST_CO2:
        raise UserError(
            f"--co2: expected grams per kilowatt hour from 0 to {MOST_CO2:g}, got {options.co2}"
        )
    if options.co2 is not None and not options.machine:
        raise UserError("--co2: expected a --machine too, which knows the energy")
    page = flags.page_file(options.html, options.force)
    machine = load(options.machine) if options.machine else None
    counts_again = bool(options.model) or (machine is not None and machine.needs_shapes)
    record = read(Path(options.run), options.model if counts_again else None)
    machine = machine and with_precision(machine, record.precision)
    if options.co2 is not None and machine and not machine.has_energy:
        raise UserError(f"--co2: {machine.note}")
    report = bill_report(record, machine, options.co2)
    if page:
        page.write(of_bill(report, machine))
    text = json.dumps(report.to_json(), indent=1) if options.as_json else ""
    show(text or as_text(report, record.ledger))
    return 0
