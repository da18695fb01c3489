"""The report of a model as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ...errors import printable
from ..phases import PASSES, SHORT, WHOLE
from ..workload import LayerShape
from .metrics import as_text as metrics_text
from .model.common import MachineReport, ZerosReport
from .model.cost import CostReport, LayerReport
from .text_table import Column, fit, name_column, text_table
from .units import short, si


def as_csv(report: CostReport) -> str:
    """Return CSV with a header and one line per layer, all figures unrounded."""
    out = io.StringIO()
    rows = [layer.to_row() for layer in report.layers]
    names = [*dict.fromkeys(name for row in rows for name in row)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_text(report: CostReport) -> str:
    """Return a table of the layers with MACs, the others in one row, then totals and metrics."""
    training = report.totals.training is not None
    passes = PASSES if training else PASSES[:1]
    columns = [
        name_column("layer"), Column("shape", 1, is_text=True), Column("weights", 2),
        *[Column(f"{SHORT[name]} MACs") for name in passes],
        Column("other ops", 4), Column("bytes", 5), *[Column("stash bytes", 3)] * training,
    ]  # fmt: skip
    layers = report.layers
    busy = [layer for layer in layers if any(layer.passes[name].macs for name in PASSES)]
    idle = [layer for layer in layers if layer not in busy]
    rows = [
        (layer.name or WHOLE, _shape(layer.shape), *_sums([layer], passes, training))
        for layer in busy
    ]
    if idle:
        rows.append((f"{len(idle)} without MACs", "", *_sums(idle, passes, training)))
    table = text_table(columns, rows, ("all layers", "", *_sums(layers, passes, training)))
    return "\n".join([*table, "", *map(fit, _summary(report)), "", metrics_text(report.metrics)])


def _sums(layers: Sequence[LayerReport], passes: Sequence[str], training: bool) -> list[str]:
    """Return the figures of some layers, summed."""
    figures = [
        sum(layer.weights for layer in layers),
        *[sum(layer.passes[name].macs for layer in layers) for name in passes],
        sum(layer.other_ops for layer in layers),
        sum(layer.bytes_read + layer.bytes_written for layer in layers),
    ]
    if training:
        figures.append(sum(layer.activation_bytes_stashed for layer in layers))
    return [*map(short, figures)]


def _shape(s: LayerShape | None) -> str:
    if s is None:  # a recurrent layer, for example
        return ""
    if s.R == s.H == 1 and s.F == 1:
        return f"{s.C} -> {s.M}"
    groups = f" / {s.groups}" if s.groups > 1 else ""
    return f"{s.C}x{s.H}x{s.W} * {s.M}x{s.R}x{s.S}{groups} -> {s.E}x{s.F}"


def _summary(report: CostReport) -> list[str]:
    totals, training = report.totals, report.totals.training
    conv = f"{100 * totals.conv_share:.1f}% in convolutions"
    lines = [
        f"weights {totals.weights:,}, parameters {totals.parameters:,}",
        f"inference {totals.inference_macs:,} MACs, {conv}",
    ]
    if training is not None:
        lines += [
            f"training {training.total_macs:,} MACs, {training.over_inference:.4f} times inference",
            f"stash {short(training.activation_bytes_stashed)}B, "
            f"peak memory {short(totals.peak_bytes)}B, "
            f"update {short(training.update_bytes)}B, "
            f"exchange {short(training.exchange_bytes_per_rank)}B a rank",
        ]
    if report.machine is None:
        return lines
    return [*lines, *_priced(report, report.machine), *_notes(report.machine)]


def _priced(report: CostReport, machine: MachineReport) -> list[str]:
    """Return a line on each priced total."""
    lines = []
    for what, price in report.totals.prices.items():
        figures = []
        if price.mac_energies is not None:
            figures.append(f"energy of {short(price.mac_energies)} MACs")
        elif price.joules is not None:
            figures.append(si(price.joules, "J"))
        if price.latency_seconds is not None:
            least = " at least" if machine.bounds_time else ""
            figures.append(f"{si(price.latency_seconds, 's')}{least}")
        if price.events is not None:
            figures.append(f"{short(price.events)} events")
        lines.append(f"{what} on {printable(machine.name)}: {', '.join(figures)}")
    return lines


def _notes(machine: MachineReport) -> list[str]:
    """Return what the prices leave open, or the source of their zeros."""
    notes = [machine.precision_note] if machine.precision_note else []
    if machine.is_measured:
        return [*notes, machine.time_note, machine.note]
    zeros = machine.zeros
    if not isinstance(zeros, ZerosReport):
        return notes
    if zeros.source is None:
        return [*notes, f"no zeros are known (--zeros){f'; {zeros.bound}' if zeros.bound else ''}"]
    others = f"; none are known of {', '.join(zeros.without)}" if zeros.without else ""
    return [*notes, f"zeros are those of {zeros.source}{others}"]
