"""What a run found on the steps whose zeros it counted, for its bill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....autograd.ledger import Ledger, SparsitySample
from ...errors import printable
from ..phases import NAMES, PASSES, REPEATED, WHOLE
from ..sparsity import of_ledger
from .ledger import samples, share
from .text_table import Column, fit, name_column, text_table
from .units import percent

KINDS = {"activations": "activation", "gradients": "gradient", "weights": "weight"}
COLUMNS = (
    name_column("layer"), Column("forward non-zero"), Column("backward data non-zero", 1),
    Column("backward weights non-zero", 1), Column("activations zero", 2),
    Column("gradients zero", 3), Column("weights zero", 4),
)  # fmt: skip
NOT_COUNTED = "evaluation, and what has no MACs"


def describe(ledger: Ledger, steps: int) -> dict[str, Any]:
    """Return non-zero MACs and shares of zeros by pass and by layer, of the sampled steps alone."""
    phases, layers = samples(ledger), dict[str, dict[str, SparsitySample]]()
    total = SparsitySample()
    for (scope, phase, *_), found in ledger.sampled.items():
        layer = layers.setdefault(scope, {})
        layer[phase] = layer.get(phase, SparsitySample()).plus(found)
        total = total.plus(found)
    return {
        "sampled_steps": ledger.sampled_steps,
        "steps": steps,
        "phases": {name: _figures(phases[name]) for name in NAMES if name in phases},
        "total": _figures(total),
        "layers": [
            {"name": scope, "phases": {name: _figures(one) for name, one in found.items()}}
            for scope, found in layers.items()
        ],
        "not_counted": NOT_COUNTED,
    }


def _figures(found: SparsitySample) -> dict[str, Any]:
    """Return counts and shares; a share of nothing is None."""
    figures: dict[str, Any] = {
        "macs": found.macs,
        "nonzero_macs": found.nonzero,
        "nonzero_share": share(found.nonzero, found.macs),
        "uncounted_macs": found.uncounted,
    }
    for name, kind in KINDS.items():
        zeros, size = getattr(found, f"{kind}_zeros"), getattr(found, name)
        figures |= {name: size, f"{kind}_zeros": zeros, f"{kind}_zero_share": share(zeros, size)}
    return figures


def as_lines(described: Mapping[str, Any]) -> list[str]:
    """Return a table of layers: the share of MACs without a zero in each pass, and of zeros in what
    each reads."""
    rows = []
    for layer in described["layers"]:
        phases = layer["phases"]
        shares = [percent(phases.get(name, {}).get("nonzero_share")) for name in PASSES]
        forward, back = phases.get("forward", {}), phases.get("backward_weights", {})
        zeros = [
            percent(table.get(f"{KINDS[name]}_zero_share"))
            for name, table in zip(KINDS, (forward, back, forward), strict=True)
        ]
        rows.append((printable(layer["name"]) or WHOLE, *shares, *zeros))
    of = f"{described['sampled_steps']:,} of {described['steps']:,} steps"
    said = f"sampled on {of}; not counted: {described['not_counted']}"
    return [*text_table(COLUMNS, rows), fit(said)]


def events(ledger: Ledger) -> dict[tuple[str, str], float]:
    """Return the MACs without a zero that all steps are likely to have, by layer and phase: those
    that the layer's sampled steps found, in recomputation and evaluation those of its forward pass;
    all MACs where nothing is known."""
    shares, found = of_ledger(ledger), dict[tuple[str, str], float]()
    for row in ledger.rows():
        phase = "forward" if row.key.phase in REPEATED else row.key.phase
        key = row.key.scope, row.key.phase
        part = shares.get(row.key.scope, {}).get(phase, 1.0)
        found[key] = found.get(key, 0.0) + row.cost.macs * part
    return found


def basis(ledger: Ledger, steps: int) -> str:
    """Return what the events of a run are taken from."""
    if not ledger.sampled_steps:
        return "no step was sampled: every MAC is an event, an upper bound"
    return f"events as sampled on {ledger.sampled_steps:,} of {steps:,} steps"
