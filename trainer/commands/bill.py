"""`tallygrad bill`: what a whole run cost, from its ledger: by phase, layer and epoch, in MACs,
bytes, joules and grams of CO2, what restarts wasted, and how many answers of the finished model
cost as much."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.host import load as load_machine
from ..components import history
from ..components.checkpoint import load as load_checkpoint
from ..components.checkpoint import newest_checkpoint
from ..components.logs import RunFolder
from ..components.state import MODEL, MOST, read_ledger, recorded
from ..cost.billing import bill_report
from ..cost.report.bill_text import as_text
from ..cost.report.pages import of_bill
from ..cost.run import Run
from ..errors import UserError, show
from . import flags

LESS_MEMORY = "free some memory"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the run, the machine that prices it, and how to print it."""
    parser.add_argument("run", help="run folder, or checkpoint")
    parser.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    parser.add_argument("--co2", type=float, metavar="G", help="grams of CO2 for a kilowatt hour")
    flags.add_json(parser)
    flags.add_page(parser)


def run(options: Mapping[str, Any]) -> int:
    """Print the bill. UserError for what cannot be read."""
    intensity = options["co2"]
    if intensity is not None and not 0 <= intensity < 1e6:
        raise UserError(f"--co2: {intensity} is no number of grams a kilowatt hour")
    if intensity is not None and not options["machine"]:
        raise UserError("--co2: energy is known with --machine only")
    record, page = read(Path(options["run"])), flags.page_file(options)
    machine = load_machine(options["machine"]) if options["machine"] else None
    if intensity is not None and machine and not machine.has_energy:
        raise UserError(f"--co2: {machine.note}")
    report = bill_report(record, machine, intensity)
    if page:
        page.write(of_bill(report, machine))
    text = json.dumps(report.to_json(), indent=1) if options["as_json"] else ""
    show(text or as_text(report, record.ledger))
    return 0


def read(path: Path) -> Run:
    """Return the run of a folder or a checkpoint. UserError where there is none, or no ledger."""
    file = newest_checkpoint(path)
    checkpoint = load_checkpoint(file)
    meta = checkpoint.meta
    steps, epoch = (recorded(file, meta, name, int) for name in ("step", "epoch"))
    images, within = (recorded(file, meta, name, int) for name in ("images", "step_in_epoch"))
    weights = [a for name, a in checkpoint.tensors.items() if name.startswith(MODEL) and a.ndim > 1]
    config = meta.get("config")
    run = Run(
        source=str(file),
        ledger=read_ledger(file, meta),
        steps=steps,
        epochs=epoch * steps / (steps - within) if epoch and steps > within else None,
        images=images,
        seconds=recorded(file, meta, "seconds", float),
        evaluations=_evaluations(meta.get("evaluations", 0)),
        each_epoch=history.epochs(file, meta.get("closed", [])),
        restarts=history.restarts(file, meta.get("restarts", [])),
        weights=sum(a.size for a in weights),
        nonzero_weights=sum(int(np.count_nonzero(a)) for a in weights),
        batch_size=config.get("batch_size") if isinstance(config, dict) else None,
        overhead_seconds=meta.get("aside"),
        model=meta.get("model"),
        input=meta.get("input"),
        classes=meta.get("classes"),
        accuracy=meta.get("accuracy"),
        evaluated=meta.get("evaluated"),
        ranks=meta.get("ranks"),
    )
    return _beside(run, file, meta, path) if os.path.isdir(path) else run


def _evaluations(count: Any) -> int:
    """Return the evaluations on record, 0 where they are not."""
    return count if type(count) is int and 0 < count < MOST else 0


def _beside(run: Run, file: Path, meta: dict[str, Any], path: Path) -> Run:
    """Return a run with what its folder tells besides the checkpoint: newer restarts, and steps
    beyond it."""
    folder, told = RunFolder(path, writes=False), path / "restarts.json"
    newer = history.restarts(told, folder.read_json(told.name) or [])
    every = recorded(file, meta, "config", dict).get("log_every") or 1
    lost = history.lost_work(folder.events(run.steps), run.steps, run.seconds, every)
    unsaved = [r for r in history.restarts(file, [lost]) if r.at_least]
    return replace(run, restarts=max(run.restarts, newer, key=len), unsaved=unsaved)
