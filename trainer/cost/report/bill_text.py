"""The bill of a run as text."""

from __future__ import annotations

from collections.abc import Sequence

from ....autograd.ledger import Ledger
from ...errors import printable
from ..phases import NAMES, PASSES, WHOLE
from ..precision import named
from ..price import Price
from .ledger import bill, sparsity
from .metrics import as_text as metrics_text
from .model.bill import BillReport, CollectiveReport, EpochReport, RestartsReport, SparsityReport
from .model.common import MachineReport
from .run_history import COLLECTIVES
from .text_table import Column, fit, name_column, text_table
from .units import digits, percent, short

SHOWN = 20  # newest epochs in the text
EXCHANGE = (
    name_column("exchange"), name_column("of"), Column("calls", 2), Column("messages", 1),
    Column("bytes"),
)  # fmt: skip
EPOCHS = (
    Column("epoch"), Column("steps", 1), Column("images", 2), Column("MACs"),
    Column("other ops", 3), Column("bytes read", 4), Column("bytes written", 4),
    Column("bytes sent", 4), Column("s"),
)  # fmt: skip
EXPOSED = [Column("exposed s", 1), Column("hidden s", 1)]
SHORT = 0.01  # seconds of exchange that are not worth a column
ZEROS = (
    name_column("layer"), Column("forward non-zero"), Column("backward data non-zero", 1),
    Column("backward weights non-zero", 1), Column("activations zero", 2),
    Column("gradients zero", 3), Column("weights zero", 4),
)  # fmt: skip


def as_text(report: BillReport, ledger: Ledger) -> str:
    """Return the bill as text: work by phase, layers, zeros, epochs, exchange, lost work, and the
    metrics."""
    lines = [bill(ledger), *sparsity(ledger, report.steps), "", *_layers(report), ""]
    if report.sparsity is not None:
        lines += [*_zeros(report.sparsity), ""]
    if report.each_epoch:
        lines += [*_epochs(report.each_epoch), ""]
    lines += _exchange([c for c in report.collectives if c.messages])
    if report.restarts.each:
        count = len(report.restarts.each)
        start = f"lost before {count} restart{'s' if count > 1 else ''}:"
        lines.append(fit(_lost_work(report.restarts, start)))
    if report.unsaved.each:
        start = "beyond the checkpoint, lost if the run has ended:"
        lines.append(fit(_lost_work(report.unsaved, start)))
    return "\n".join([*lines, *map(fit, _summary(report)), "", metrics_text(report.metrics)])


def _summary(report: BillReport) -> list[str]:
    many = report.epochs
    epochs = "less than 1" if many is None else f"{many:.4g}"
    epochs += " epoch" if many in (None, 1) else " epochs"
    lines = []
    peak = max((phase.peak_bytes for phase in report.phases.values()), default=0)
    if peak:
        lines.append(f"peak memory of a rank: {short(peak)}B")
    lines.append(
        named(
            f"{report.steps:,} steps, {epochs}, {report.images:,} images, {report.seconds:.1f} s",
            report.precision,
        )
    )
    whole = report.exchange_exposed + report.exchange_hidden
    if whole >= SHORT:
        lines.append(
            f"exchange of gradients: {report.exchange_exposed:.2f} s exposed, "
            f"{report.exchange_hidden:.2f} s hidden ({percent(report.exchange_hidden / whole)})"
        )
    if report.inferences:
        lines.append(f"the training took as many MACs as {short(report.inferences)} inferences")
    if report.machine is not None:
        lines += _on_machine(report, report.machine)
    if report.total.grams_co2 is not None:
        grams = short(report.total.grams_co2)
        lines.append(f"{grams} g of CO2 at {report.grams_co2_per_kwh:g} g a kilowatt hour")
    return [*lines, f"not recorded: {', '.join(report.not_recorded)}"]


def _on_machine(report: BillReport, machine: MachineReport) -> list[str]:
    notes = [machine.time_note, machine.note] if machine.is_measured else []
    notes += [machine.precision_note] if machine.precision_note else []
    notes += [machine.zeros] if isinstance(machine.zeros, str) else []
    figures = "; ".join([_priced(report.total.price, machine), *notes])
    parts = [(name, part.price) for name, part in report.parts.items() if part.price.is_known]
    return [
        f"on {printable(machine.name)}: {figures}",
        *[f"  {name}: {_priced(price, machine)}" for name, price in parts],
    ]


def _priced(price: Price, machine: MachineReport) -> str:
    """Return energy and time, as far as the machine knows them."""
    figures = []
    if price.mac_energies is not None:
        figures.append(f"energy of {short(price.mac_energies)} MACs")
    elif price.joules is not None:
        figures.append(f"{digits(price.joules)} J")
    if price.latency_seconds is not None:
        least = " at least" if machine.bounds_time else ""
        figures.append(f"{digits(price.latency_seconds)} s{least}")
    return ", ".join(figures) or "not available"


def _layers(report: BillReport) -> list[str]:
    """Return a table of the MACs of each layer by phase."""
    phases = [
        name for name in NAMES if name in report.phases and report.phases[name].work.cost.macs
    ]
    rows = []
    for layer in report.layers:
        costs = [layer.phases[name].work.cost if name in layer.phases else None for name in phases]
        macs = [cost.macs if cost else 0 for cost in costs]
        if any(macs):
            rows.append((printable(layer.name) or WHOLE, *map(short, macs)))
    columns = [Column(f"{NAMES[name]} MACs", i + 1) for i, name in enumerate(phases)]
    return text_table([name_column("layer"), *columns], rows)


def _zeros(report: SparsityReport) -> list[str]:
    """Return a table of layers: by pass the share of MACs without a zero, and by operand the share
    of zeros."""
    rows = []
    for layer in report.layers:
        forward, back = layer.of("forward"), layer.of("backward_weights")
        shares = [layer.of(name).nonzero_share for name in PASSES]
        shares += [forward.activation_zeros, back.gradient_zeros, forward.weight_zeros]
        rows.append((printable(layer.name) or WHOLE, *map(percent, shares)))
    of = f"{report.sampled_steps:,} of {report.steps:,} steps"
    return [*text_table(ZEROS, rows), fit(f"sampled on {of}; not counted: {report.not_counted}")]


def _exchange(collectives: Sequence[CollectiveReport]) -> list[str]:
    if not collectives:
        return []
    rows = [
        (c.collective, printable(c.of), short(c.calls), short(c.messages), short(c.bytes_sent))
        for c in collectives
    ]
    used = dict.fromkeys(c.collective for c in collectives)
    counted = [fit(f"{name}: counted as {COLLECTIVES[name]}") for name in used]
    return [*text_table(EXCHANGE, rows), *counted, ""]


def _epochs(every: Sequence[EpochReport]) -> list[str]:
    prices = [epoch.work.price for epoch in every]
    in_joules = any(price.joules is not None for price in prices)
    in_macs = any(price.mac_energies is not None for price in prices)
    columns = [*EPOCHS, *[Column("J")] * in_joules, *[Column("energy in MACs")] * in_macs]
    exchanged = any(epoch.exchange_exposed + epoch.exchange_hidden >= SHORT for epoch in every)
    columns += EXPOSED * exchanged
    rows = []
    for epoch in every[-SHOWN:]:
        energies = [epoch.work.price.joules] * in_joules + [epoch.work.price.mac_energies] * in_macs
        times = (epoch.exchange_exposed, epoch.exchange_hidden) * exchanged
        figures = ["-" if e is None else digits(e) for e in energies]
        rows.append((*_epoch(epoch), *figures, *[f"{seconds:.2f}" for seconds in times]))
    hidden = len(every) - SHOWN
    note = [f"{hidden} earlier epochs: --json"] if hidden > 0 else []
    return [*text_table(columns, rows), *note]


def _epoch(epoch: EpochReport) -> tuple[str, ...]:
    work = epoch.work
    counts = (
        epoch.steps, epoch.images, work.cost.macs, work.other_ops, work.cost.bytes_read,
        work.cost.bytes_written, work.cost.bytes_sent,
    )  # fmt: skip
    return (str(epoch.epoch), *map(short, counts), f"{epoch.seconds:.1f}")


def _lost_work(report: RestartsReport, start: str) -> str:
    """Return a line on work that no checkpoint contains."""
    figures = [
        f"{report.steps_at_least:,} steps at least, {report.steps_at_most:,} at most",
        f"{report.evaluations} evaluations",
        f"{short(report.work.cost.macs)} MACs",
        f"{report.seconds:.1f} s",
    ]
    if report.work.price.joules is not None:
        figures.append(f"{digits(report.work.price.joules)} J")
    return f"{start} {', '.join(figures)}"
