"""`tallygrad bill`: what a whole run cost, from its books: by phase, layer and epoch, in MACs,
bytes, joules and grams of CO2, what restarts wasted, and how many answers of the finished model
cost as much."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ...autograd.ledger import Cost, Key, Ledger
from ..calibration.host import load as load_machine
from ..components import history
from ..components.checkpoint import Checkpoint, newest_checkpoint
from ..components.checkpoint import load as load_checkpoint
from ..components.history import Epoch, Restart
from ..components.logs import RunFolder
from ..components.state import MOST, read_ledger, recorded
from ..cost.machines.machine import HOST, Machine
from ..cost.phases import NAMES, WHOLE
from ..cost.pricing import Prices, prices
from ..cost.report import run_history as past
from ..cost.report import sampled_sparsity as sampled
from ..cost.report.ledger import bill, other_operations, sparsity, training_macs
from ..cost.report.metrics import as_text as metrics_text
from ..cost.report.metrics import of_run
from ..cost.report.page import page_file
from ..cost.report.pages import of_bill
from ..cost.report.text_table import Column, fit, name_column, text_table
from ..cost.report.units import digits, short
from ..errors import UserError, printable, show
from . import flags

LESS_MEMORY = "free some memory"
T = TypeVar("T", bound=Hashable)
JOULES_PER_KWH = 3.6e6
NOT_RECORDED = [
    "steps of a run that died since the last line of its log",
    "books and buffers that ranks gather for a checkpoint",
]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the run, the machine that prices it, and how to print it."""
    parser.add_argument("run", help="run folder, or checkpoint")
    parser.add_argument("--machine", default="", help="price it on a machine: a name, or FILE.toml")
    parser.add_argument("--co2", type=float, metavar="G", help="grams of CO2 for a kilowatt hour")
    flags.add_json(parser)
    flags.add_page(parser)


class Run(NamedTuple):
    """A run as its newest checkpoint has it on record."""

    source: Path
    ledger: Ledger
    steps: int
    epochs: float | None  # None within the first one, whose length is on no record
    images: int
    seconds: float
    checkpoint: Checkpoint
    closed: Sequence[Epoch] = ()
    restarts: Sequence[Restart] = ()
    unsaved: Sequence[Restart] = ()  # what the log has beyond the checkpoint, if anything

    @property
    def meta(self) -> dict[str, Any]:
        """The record as it is."""
        return self.checkpoint.meta

    @property
    def evaluations(self) -> int:
        """Evaluations in the books, 0 where they are not on record."""
        count = self.meta.get("evaluations", 0)
        return count if type(count) is int and 0 < count < MOST else 0


PARTS = {
    "training": ("forward", "backward_data", "backward_weights", "update"),
    "recomputation": ("recompute",),
    "evaluation": ("evaluate",),
    "exchange": ("communicate",),
}


def read(path: Path) -> Run:
    """Return the run of a folder or a checkpoint. UserError where there is none, or no books."""
    file = newest_checkpoint(path)
    held = load_checkpoint(file)
    meta = held.meta
    steps, epoch = (recorded(file, meta, name, int) for name in ("step", "epoch"))
    images, within = (recorded(file, meta, name, int) for name in ("images", "step_in_epoch"))
    seconds = recorded(file, meta, "seconds", float)
    epochs = epoch * steps / (steps - within) if epoch and steps > within else None
    closed = history.epochs(file, meta.get("closed", []))
    known = history.restarts(file, meta.get("restarts", []))
    run = Run(file, read_ledger(file, meta), steps, epochs, images, seconds, held, closed, known)
    return _beside(run, path) if os.path.isdir(path) else run


def _beside(run: Run, path: Path) -> Run:
    """Return a run with what its folder tells besides the checkpoint: newer restarts, and steps
    beyond it."""
    folder, told = RunFolder(path, writes=False), path / "restarts.json"
    known = max(run.restarts, history.restarts(told, folder.read_json(told.name) or []), key=len)
    every = recorded(run.source, run.meta, "config", dict).get("log_every") or 1
    lost = history.lost_work(folder.events(run.steps), run.steps, run.seconds, every)
    unsaved = [r for r in history.restarts(run.source, [lost]) if r.at_least]
    return run._replace(restarts=known, unsaved=unsaved)


def describe(run: Run, machine: Machine | None, intensity: float | None) -> dict[str, Any]:
    """Return what `tallygrad bill --json` prints; `intensity` are grams of CO2 for a kilowatt
    hour."""
    priced = Prices(None)
    if machine is not None:
        priced = prices(run.source, run.meta, run.ledger, machine)

    def figures(phases: Mapping[str, Cost]) -> dict[str, Any]:
        total = Cost()
        for cost in phases.values():
            total = total.plus(cost)
        return _with_carbon(_figures(total) | priced.part(phases).to_json(), intensity)

    known = run.ledger, run.steps, run.evaluations
    found: dict[str, Any] = {
        "checkpoint": str(run.source),
        "steps": run.steps,
        "epochs": run.epochs,
        "images": run.images,
        "seconds": run.seconds,
        **_sums(run.ledger, priced, figures),
        "layers": _layers(run.ledger, priced),
        "collectives": past.collectives(run.ledger),
        "each_epoch": past.epochs(run.closed, figures),
        "restarts": past.restarts(run.restarts, *known, figures),
        "unsaved": past.restarts(run.unsaved, *known, figures),
        **_ratios(run),
        "not_recorded": NOT_RECORDED,
    }
    if run.epochs:
        found["per_epoch"] = {
            "macs": found["total"]["macs"] / run.epochs, "seconds": run.seconds / run.epochs
        }  # fmt: skip
    if run.ledger.sampled_steps:
        found["sparsity"] = sampled.describe(run.ledger, run.steps)
    if machine is not None:
        found["machine"] = {
            "name": machine.name, "kind": machine.kind, "source": machine.source,
            "note": machine.note,
        }  # fmt: skip
        if machine.uses_zeros and not machine.needs_shapes:
            found["machine"]["zeros"] = sampled.basis(run.ledger, run.steps)
        if intensity is not None:
            grams = found["total"]["grams_co2"]
            found |= {"grams_co2": grams, "grams_co2_per_kwh": intensity}
    return found


def _sums(ledger: Ledger, priced: Prices, figures: past.Figures) -> dict[str, Any]:
    """Return the figures of phases, parts and all of it."""
    phases, kept = ledger.by("phase"), _kept(ledger, lambda key: key.phase)
    return {
        "phases": {
            name: _figures(phases[name])
            | priced.of(phases[name], phase=name).to_json()
            | kept[name]
            for name in NAMES
            if name in phases
        },
        "parts": {
            part: figures({name: phases[name] for name in names if name in phases})
            for part, names in PARTS.items()
        },
        "total": figures(phases),
    }


def _ratios(run: Run) -> dict[str, Any]:
    """Return MACs of training, and how many forward passes and how many answers take as many: a
    forward pass for an image costs what those of the training cost on average."""
    phases = run.ledger.by("phase")
    forward, training = phases.get("forward", Cost()).macs, training_macs(phases)
    return {
        "training_macs": training,
        "training_over_inference": training / forward if forward else 0.0,
        "inferences": training * run.images / forward if forward else 0.0,
    }


def _with_carbon(figures: dict[str, Any], intensity: float | None) -> dict[str, Any]:
    """Add grams of CO2 where joules are known. UserError where they are not."""
    if intensity is None:
        return figures
    if "energy_macs" in figures:
        raise UserError("--co2: the machine tells energy in that of MACs, not in joules")
    kwh = figures.get("energy_joules", 0.0) / JOULES_PER_KWH
    return {**figures, "grams_co2": kwh * intensity}


def _kept(ledger: Ledger, what: Callable[[Key], T]) -> dict[T, dict[str, int]]:
    """Return, for each phase say, bytes that the tape kept in it, all calls together, and the most
    that were alive at once on one rank."""
    found: dict[T, dict[str, int]] = {}
    for row in ledger.rows():
        new = {"activation_bytes_stashed": 0, "peak_bytes": 0}
        kept = found.setdefault(what(row.key), new)
        kept["activation_bytes_stashed"] += row.stashed
        kept["peak_bytes"] = max(kept["peak_bytes"], row.peak)
    return found


def _figures(cost: Cost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "executed": cost.executed,
        "other_ops": other_operations(cost),
        "bytes_read": cost.bytes_read,
        "bytes_written": cost.bytes_written,
        "bytes_sent": cost.bytes_sent,
        "messages": cost.messages,
    }


def _layers(ledger: Ledger, priced: Prices) -> list[dict[str, Any]]:
    costs: dict[str, dict[str, Cost]] = {}
    for row in ledger.rows():
        phases = costs.setdefault(row.key.scope, {})
        phases[row.key.phase] = phases.get(row.key.phase, Cost()).plus(row.cost)
    kept = _kept(ledger, lambda key: (key.scope, key.phase))
    return [
        {
            "name": scope,
            "phases": {
                name: _figures(c) | priced.of(c, scope, name).to_json() | kept[scope, name]
                for name, c in phases.items()
            },
        }
        for scope, phases in costs.items()
    ]


def as_text(described: dict[str, Any], ledger: Ledger) -> str:
    """Return the bill for people."""
    d = described
    epochs = "less than 1" if d["epochs"] is None else f"{d['epochs']:.4g}"
    lines = [bill(ledger), *sparsity(ledger, d["steps"]), "", *_layer_table(d), ""]
    if "sparsity" in d:
        lines += [*sampled.as_lines(d["sparsity"]), ""]
    lines += past.as_text(d)
    said = []
    peak = max((phase["peak_bytes"] for phase in d["phases"].values()), default=0)
    if peak:
        said.append(f"results alive at once on a rank: {short(peak)}B at most")
    said.append(
        f"{d['steps']:,} steps, {epochs} epochs, {d['images']:,} images, {d['seconds']:.1f} s"
    )
    if d["inferences"]:
        said.append(f"the training took as many MACs as {short(d['inferences'])} answers")
    if "machine" in d:
        figures = "; ".join([_priced(d["total"]), *_notes(d)])
        said.append(f"on {printable(d['machine']['name'])}: {figures}")
        said += [f"  {n}: {_priced(part)}" for n, part in d["parts"].items() if _costs(part)]
    if "grams_co2" in d:
        grams = d["grams_co2"]
        said.append(f"{short(grams)} g of CO2 at {d['grams_co2_per_kwh']:g} g a kilowatt hour")
    said.append(f"not recorded: {', '.join(d['not_recorded'])}")
    return "\n".join([*lines, *map(fit, said)])


def _priced(price: Mapping[str, Any]) -> str:
    """Return energy, and the least time, as far as the machine tells them."""
    figures = []
    if "energy_macs" in price:
        figures.append(f"energy of {short(price['energy_macs'])} MACs")
    elif "energy_joules" in price:
        figures.append(f"{digits(price['energy_joules'])} J")
    if "latency_seconds" in price:
        figures.append(f"{digits(price['latency_seconds'])} s at least")
    return ", ".join(figures) or "not available"


def _costs(price: Mapping[str, Any]) -> bool:
    return any(price.get(key) for key in ("energy_macs", "energy_joules", "latency_seconds"))


def _notes(described: Mapping[str, Any]) -> list[str]:
    """Return what the figures of a machine are taken from, where its file does not tell."""
    machine = described["machine"]
    notes = [machine["note"]] if machine["kind"] == HOST else []
    return [*notes, *[machine[key] for key in ("zeros",) if key in machine]]


def _layer_table(described: dict[str, Any]) -> list[str]:
    """Return a table of the layers with MACs, and those of each phase."""
    phases = [name for name in NAMES if described["phases"].get(name, {}).get("macs")]
    heads = [f"{NAMES[name]} MACs" for name in phases]
    rows = []
    for layer in described["layers"]:
        macs = [layer["phases"].get(name, {}).get("macs", 0) for name in phases]
        if any(macs):
            rows.append((printable(layer["name"]) or WHOLE, *map(short, macs)))
    columns = [name_column("layer"), *[Column(head, i + 1) for i, head in enumerate(heads)]]
    return text_table(columns, rows)


def run(chosen: Mapping[str, Any]) -> int:
    """Print the bill. UserError for what cannot be read."""
    intensity = chosen["co2"]
    if intensity is not None and not 0 <= intensity < 1e6:
        raise UserError(f"--co2: {intensity} is no number of grams a kilowatt hour")
    if intensity is not None and not chosen["machine"]:
        raise UserError("--co2: energy is known with --machine only")
    held, page = read(Path(chosen["run"])), page_file(chosen)
    machine = load_machine(chosen["machine"]) if chosen["machine"] else None
    if intensity is not None and machine and not machine.has_energy:
        raise UserError(f"--co2: {machine.note}")
    described = describe(held, machine, intensity)
    described["metrics"] = of_run(described, held.checkpoint.tensors, held.meta, machine)
    if page:
        page.write(of_bill(described, machine))
    text = json.dumps(described, indent=1) if chosen["as_json"] else ""
    show(text or f"{as_text(described, held.ledger)}\n\n{metrics_text(described['metrics'])}")
    return 0
