"""What a model costs, as JSON, CSV and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ....autograd.ledger import Cost
from ...errors import printable
from ..cluster.allreduce import ring_volume
from ..phases import PASSES, SHORT, WHOLE
from ..workload import Layer, Shape, Work
from .ledger import other_operations
from .text_table import Column, fit, name_column, text_table
from .units import short, si

CONVENTIONS = {
    "mac": "one multiply-accumulate, 2 FLOP; zero padding counts, bias additions do not",
    "weights": "filters and matrices, without biases and what normalisation learns",
    "backward_data": "none for an input that needs no gradient, as the first layer's",
    "bytes": "float32; each call reads its operands once and writes its results once",
    "update": "SGD with momentum and weight decay",
    "exchange": "ring allreduce: 2 (p - 1) / p of the gradients sent by each of p ranks",
    "peak_bytes": "results alive at once, each from the call that makes it to the last that reads "
    "it, a gradient of weights until it is added to the others; weights, the flat gradient and "
    "velocity are not counted",
}


def describe(work: Work, ranks: int = 1, training: bool = True) -> dict[str, Any]:
    """Return what `tallygrad cost --json` prints."""
    return {
        "model": work.model,
        "batch": work.batch,
        "input": [*work.input],
        "conventions": CONVENTIONS,
        "totals": totals(work, ranks, training),
        "layers": [_layer(layer) for layer in work.layers],
    }


def totals(work: Work, ranks: int = 1, training: bool = True) -> dict[str, Any]:
    """Return the sums over all layers."""
    conv, fc = (_macs(work, kind) for kind in ("conv", "fc"))
    forward = work.phase("forward").macs
    found: dict[str, Any] = {
        "weights": sum(layer.weights for layer in work.layers),
        "parameters": work.parameters,
        "conv_weights": sum(layer.weights for layer in work.layers if layer.kind == "conv"),
        "fc_weights": sum(layer.weights for layer in work.layers if layer.kind == "fc"),
        "conv_macs": conv,
        "fc_macs": fc,
        "inference_macs": forward,
        "inference_bytes": moved(work.phase("forward")),
        "conv_share": conv / forward if forward else 0.0,
        "peak_bytes": work.peak,
    }
    if training:
        found |= _training(work, ranks)
    return found


def _training(work: Work, ranks: int) -> dict[str, Any]:
    by_pass = {f"{name}_macs": work.phase(name).macs for name in PASSES}
    total, update = sum(by_pass.values()), work.phase("update")
    forward = by_pass["forward_macs"]
    return {
        "training": {
            **by_pass,
            "total_macs": total,
            "total_bytes": moved(work.ledger.total()),
            "other_ops": sum(other_operations(c) for c in work.ledger.by("phase").values()),
            "update_bytes": moved(update),
            "exchange_bytes_per_rank": exchanged(work.parameters, ranks),
        },
        "training_over_inference": total / forward if forward else 0.0,
        "activation_bytes_stashed": sum(layer.stashed for layer in work.layers),
    }


def moved(cost: Cost) -> int:
    """Return the bytes that calls read and write."""
    return cost.bytes_read + cost.bytes_written


def exchanged(parameters: int, ranks: int) -> int:
    """Return the bytes that a rank sends in a ring allreduce of float32 gradients (Patarasuk and
    Yuan 2009)."""
    return int(ring_volume(4 * parameters, ranks))


def _macs(work: Work, kind: str) -> int:
    return sum(layer.macs("forward") for layer in work.layers if layer.kind == kind)


def _layer(layer: Layer) -> dict[str, Any]:
    shape = layer.shapes[0] if layer.shapes else None
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": shape and letters(shape),
        "weights": layer.weights,
        "parameters": layer.parameters,
        **{f"{name}_macs": layer.macs(name) for name in PASSES},
        **{f"{name}_bytes": moved(layer.costs.get(name, Cost())) for name in PASSES},
        "other_ops": sum(other_operations(c) for c in layer.costs.values()),
        "bytes_read": sum(c.bytes_read for c in layer.costs.values()),
        "bytes_written": sum(c.bytes_written for c in layer.costs.values()),
        "activation_bytes_stashed": layer.stashed,
        "peak_bytes": max(layer.peaks.values(), default=0),
        **{f"{name}_peak_bytes": layer.peaks.get(name, 0) for name in PASSES},
    }


def letters(shape: Shape) -> dict[str, Any]:
    """Return a shape in the survey's letters; U is a pair where the strides differ."""
    u = shape.U[0] if shape.U[0] == shape.U[1] else [*shape.U]
    return {**shape._asdict(), "U": u}


def as_csv(described: dict[str, Any]) -> str:
    """Return one line for each layer, with a head."""
    out = io.StringIO()
    rows = [_flat(row) for row in described["layers"]]
    names = [*dict.fromkeys(name for row in rows for name in row)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without nested entries: those of a shape by their letters, prices by pass."""
    shape = row["shape"] or {}
    flat = {name: value for name, value in row.items() if not isinstance(value, dict)}
    prices = {
        f"{phase}_{name}": value
        for phase, price in row.get("passes", {}).items()
        for name, value in price.items()
    }
    return {k: v for k, v in flat.items() if k != "shape"} | shape | prices


def as_text(described: dict[str, Any]) -> str:
    """Return the layers that have MACs in a table, the others in a row, and the totals."""
    training = "training" in described["totals"]
    passes = PASSES if training else PASSES[:1]
    columns = [
        name_column("layer"), Column("shape", 1, is_text=True), Column("weights", 2),
        *[Column(f"{SHORT[name]} MACs") for name in passes],
        Column("other ops", 4), Column("bytes", 5), *[Column("kept bytes", 3)] * training,
    ]  # fmt: skip
    layers = described["layers"]
    busy = [row for row in layers if any(row[f"{name}_macs"] for name in PASSES)]
    idle = [row for row in layers if row not in busy]
    rows = [
        (row["name"] or WHOLE, _text(row["shape"]), *_sums([row], passes, training)) for row in busy
    ]
    if idle:
        rows.append((f"{len(idle)} without MACs", "", *_sums(idle, passes, training)))
    table = text_table(columns, rows, ("all layers", "", *_sums(layers, passes, training)))
    return "\n".join([*table, "", *map(fit, _summary(described))])


def _sums(layers: Sequence[dict[str, Any]], passes: Sequence[str], training: bool) -> list[str]:
    """Return the figures of some layers together."""
    names = ["weights", *[f"{name}_macs" for name in passes], "other_ops"]
    figures = [sum(row[name] for row in layers) for name in names]
    figures.append(sum(row["bytes_read"] + row["bytes_written"] for row in layers))
    if training:
        figures.append(sum(row["activation_bytes_stashed"] for row in layers))
    return [*map(short, figures)]


def _text(shape: dict[str, Any] | None) -> str:
    if shape is None:  # of a recurrent layer, for one
        return ""
    if shape["R"] == shape["H"] == 1 and shape["F"] == 1:
        return f"{shape['C']} -> {shape['M']}"
    groups = f" / {shape['groups']}" if shape["groups"] > 1 else ""
    return (
        f"{shape['C']}x{shape['H']}x{shape['W']} * {shape['M']}x{shape['R']}x{shape['S']}"
        f"{groups} -> {shape['E']}x{shape['F']}"
    )


def _summary(described: dict[str, Any]) -> list[str]:
    t = described["totals"]
    lines = [
        f"weights {t['weights']:,}, parameters {t['parameters']:,}",
        f"inference {t['inference_macs']:,} MACs, {100 * t['conv_share']:.1f}% in convolutions",
    ]
    if "training" in t:
        lines += [
            f"training {t['training']['total_macs']:,} MACs, "
            f"{t['training_over_inference']:.4f} times inference",
            f"kept for the way back {short(t['activation_bytes_stashed'])}B, "
            f"results alive at most {short(t['peak_bytes'])}B, "
            f"update {short(t['training']['update_bytes'])}B, "
            f"exchange {short(t['training']['exchange_bytes_per_rank'])}B a rank",
        ]
    return [*lines, *_priced(described)]


def _priced(described: dict[str, Any]) -> list[str]:
    """Return what a machine makes of it, if one was asked for."""
    prices = described["totals"].get("on_machine", {})
    lines = []
    for what, price in prices.items():
        figures = []
        if "energy_macs" in price:
            figures.append(f"energy of {short(price['energy_macs'])} MACs")
        elif "energy_joules" in price:
            figures.append(si(price["energy_joules"], "J"))
        if "latency_seconds" in price:
            figures.append(f"{si(price['latency_seconds'], 's')} at least")
        if "events" in price:
            figures.append(f"{short(price['events'])} events")
        name = printable(described["machine"]["name"])
        lines.append(f"{what} on {name}: {', '.join(figures)}")
    return lines + _notes(described.get("machine", {}))


def _notes(machine: dict[str, Any]) -> list[str]:
    """Return what the prices leave open, or where their zeros are from."""
    if machine.get("kind") == "host":
        return [str(machine["note"])]
    if "zeros" not in machine:
        return []
    source, without = machine["zeros"]["source"], machine["zeros"]["without"]
    if source is None:
        bound = "; every MAC is an event: an upper bound" if machine["kind"] == "events" else ""
        return [f"no zeros are known (--zeros){bound}"]
    others = f"; none are known of {', '.join(without)}" if without else ""
    return [f"zeros are those of {source}{others}"]
