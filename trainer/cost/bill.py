"""`tallygrad bill`: what a whole run cost, from its books: by phase and by layer, in MACs, bytes,
joules and grams of CO2, and how many answers of the finished model cost as much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...autograd.ledger import Cost, Ledger
from ..checkpoint import Checkpoint
from ..checkpoint import load as load_checkpoint
from ..errors import UserError
from ..inspect import find
from ..report import NAMES, bill, other_operations, short, sparsity, training_macs
from ..state import books, recorded
from . import sampled
from .machine import HOST, Machine
from .machine import load as load_machine
from .metrics import as_text as metrics_text
from .metrics import of_run
from .page import write
from .pages import of_bill
from .table import aligned

JOULES_PER_KWH = 3.6e6


class Run(NamedTuple):
    """A run as its newest checkpoint has it on record."""

    source: Path
    ledger: Ledger
    steps: int
    epochs: float | None  # None within the first one, whose length is on no record
    images: int
    seconds: float
    checkpoint: Checkpoint


def read(path: Path) -> Run:
    """Return the run of a folder or a checkpoint. UserError where there is none, or no books."""
    file = find(path)
    held = load_checkpoint(file)
    meta = held.meta
    steps, epoch = (recorded(file, meta, name, int) for name in ("step", "epoch"))
    images, within = (recorded(file, meta, name, int) for name in ("images", "step_in_epoch"))
    seconds = recorded(file, meta, "seconds", float)
    epochs = epoch * steps / (steps - within) if epoch and steps > within else None
    return Run(file, books(file, meta), steps, epochs, images, seconds, held)


def describe(run: Run, machine: Machine | None, intensity: float | None) -> dict[str, Any]:
    """Return what `tallygrad bill --json` prints; `intensity` are grams of CO2 for a kilowatt
    hour."""
    phases = run.ledger.by("phase")
    forward = phases.get("forward", Cost())
    training, met = training_macs(phases), sampled.events(run.ledger)
    by_phase = {name: sum(n for (_, p), n in met.items() if p == name) for name in phases}
    found: dict[str, Any] = {
        "checkpoint": str(run.source),
        "steps": run.steps,
        "epochs": run.epochs,
        "images": run.images,
        "seconds": run.seconds,
        "phases": {
            name: _figures(phases[name], machine, by_phase[name])
            for name in NAMES
            if name in phases
        },
        "total": _figures(run.ledger.total(), machine, sum(met.values())),
        "layers": _layers(run.ledger, machine, met),
        "training_macs": training,
        "training_over_inference": training / forward.macs if forward.macs else 0.0,
        "inferences": _inferences(run, training, forward),
        "not_recorded": ["work that was lost between the last checkpoint and a restart"],
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
        if machine.kind == "events":
            found["machine"]["zeros"] = sampled.basis(run.ledger, run.steps)
        if intensity is not None:
            kwh = found["total"]["energy_joules"] / JOULES_PER_KWH
            found |= {"grams_co2": kwh * intensity, "grams_co2_per_kwh": intensity}
    return found


def _inferences(run: Run, training: int, forward: Cost) -> float:
    """Return how many answers take as many MACs as the training did: a forward pass for an image
    costs what those of the training cost on average."""
    return training * run.images / forward.macs if forward.macs else 0.0


def _figures(cost: Cost, machine: Machine | None, events: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "macs": cost.macs,
        "executed": cost.executed,
        "other_ops": other_operations(cost),
        "bytes_read": cost.bytes_read,
        "bytes_written": cost.bytes_written,
        "bytes_sent": cost.bytes_sent,
        "messages": cost.messages,
    }
    return figures | (machine.price(cost, events) if machine else {})


def _layers(
    ledger: Ledger, machine: Machine | None, met: Mapping[tuple[str, str], float]
) -> list[dict[str, Any]]:
    costs: dict[str, dict[str, Cost]] = {}
    for row in ledger.rows():
        phases = costs.setdefault(row.key.scope, {})
        phases[row.key.phase] = phases.get(row.key.phase, Cost()).plus(row.cost)
    return [
        {
            "name": scope,
            "phases": {name: _figures(c, machine, met[scope, name]) for name, c in phases.items()},
        }
        for scope, phases in costs.items()
    ]


def as_text(described: dict[str, Any], ledger: Ledger) -> str:
    """Return the bill for people."""
    d = described
    epochs = "less than 1" if d["epochs"] is None else f"{d['epochs']:.4g}"
    lines = [bill(ledger), *sparsity(ledger, d["steps"]), "", *aligned(_rows(d)), ""]
    if "sparsity" in d:
        lines += [*sampled.as_lines(d["sparsity"]), ""]
    lines.append(
        f"{d['steps']:,} steps, {epochs} epochs, {d['images']:,} images, {d['seconds']:.1f} s"
    )
    if d["inferences"]:
        lines.append(f"the training took as many MACs as {short(d['inferences'])} answers")
    if "machine" in d:
        lines.append(f"on {d['machine']['name']}: {_priced(d)}")
    if "grams_co2" in d:
        grams = d["grams_co2"]
        lines.append(f"{short(grams)} g of CO2 at {d['grams_co2_per_kwh']:g} g a kilowatt hour")
    return "\n".join([*lines, f"not recorded: {', '.join(d['not_recorded'])}"])


def _priced(described: dict[str, Any]) -> str:
    """Return joules and seconds, as far as the machine has them, and what they are taken from."""
    total, machine = described["total"], described["machine"]
    joules, seconds = total.get("energy_joules"), total.get("latency_seconds")
    figures = [] if joules is None else [f"{short(joules)} J"]
    if machine["kind"] == HOST:
        figures += [f"{short(seconds)} s at least", machine["note"]]
    return "; ".join([*figures, *[machine[k] for k in ("zeros",) if k in machine]])


def _rows(described: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the layers with MACs, and those of each phase."""
    phases = [name for name in NAMES if described["phases"].get(name, {}).get("macs")]
    rows: list[tuple[str, ...]] = [("layer", "", *[NAMES[name] for name in phases])]
    for layer in described["layers"]:
        macs = [layer["phases"].get(name, {}).get("macs", 0) for name in phases]
        if any(macs):
            # A name from a file keeps its escapes, so that it cannot steer a terminal.
            rows.append((json.dumps(layer["name"])[1:-1], "", *map(short, macs)))
    return rows


def run(chosen: Mapping[str, Any]) -> int:
    """Print the bill. UserError for what cannot be read."""
    intensity = chosen["co2"]
    if intensity is not None and not 0 <= intensity < 1e6:
        raise UserError(f"--co2: {intensity} is no number of grams a kilowatt hour")
    if intensity is not None and not chosen["machine"]:
        raise UserError("--co2: energy is known with --machine only")
    held = read(Path(chosen["run"]))
    machine = load_machine(chosen["machine"]) if chosen["machine"] else None
    if intensity is not None and machine and not machine.has_energy:
        raise UserError(f"--co2: {machine.note}")
    described = describe(held, machine, intensity)
    described["metrics"] = of_run(described, held.checkpoint.tensors, held.checkpoint.meta, machine)
    if chosen["html"]:
        write(chosen["html"], of_bill(described, held.ledger, machine))
    text = json.dumps(described, indent=1) if chosen["as_json"] else ""
    print(text or f"{as_text(described, held.ledger)}\n\n{metrics_text(described['metrics'])}")
    return 0
