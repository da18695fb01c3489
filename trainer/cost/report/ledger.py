"""A ledger as text: the table of work by phase, and lines on zeros."""

from __future__ import annotations

from ....autograd.ledger import Cost, Ledger, SparsitySample
from ..phases import NAMES, PASSES, in_full
from ..sparsity import share
from ..workload import other_operations
from .text_table import Column, fit, name_column, text_table
from .units import percent, short

COLUMNS = (
    name_column("phase"), Column("MACs"), Column("executed", 1), Column("other ops", 2),
    Column("bytes read", 3), Column("bytes written", 3), Column("bytes sent", 3),
)  # fmt: skip


def bill(ledger: Ledger) -> str:
    """Return a table by phase of MACs, multiplications executed for them, other operations and
    bytes, with a total, and the ratio of training to its own forward passes."""
    phases = ledger.by("phase")
    rows = [_row(in_full(p), phases[p]) for p in NAMES if p in phases]
    table = text_table(COLUMNS, rows, _row("total", ledger.total()))
    return "\n".join([*table, *map(fit, _ratio(phases))])


def _row(name: str, cost: Cost) -> tuple[str, ...]:
    figures = (
        cost.macs, cost.executed, other_operations(cost),
        cost.bytes_read, cost.bytes_written, cost.bytes_sent,
    )  # fmt: skip
    return (name, *[short(n) for n in figures])


def training_macs(phases: dict[str, Cost]) -> int:
    """Return the MACs of training: forward, recomputation and both backward passes."""
    names = ("forward", "recompute", "backward_data", "backward_weights")
    return sum(phases[name].macs for name in names if name in phases)


def _ratio(phases: dict[str, Cost]) -> list[str]:
    forward = phases.get("forward", Cost()).macs
    if not forward:
        return []
    ratio = training_macs(phases) / forward
    return [f"training costs {ratio:.4f} times the MACs of its forward passes (inference)"]


def sparsity(ledger: Ledger, steps: int) -> list[str]:
    """Return lines on zeros and non-zero MACs of the sampled steps, none without any."""
    if not ledger.sampled_steps:
        return []
    phases = ledger.sample_sums(lambda key: key.phase)
    total = SparsitySample()
    for sample in phases.values():
        total = total.plus(sample)
    each = [
        f"{NAMES[name]} {percent(share(one.nonzero, one.macs))}"
        for name, one in ((name, phases.get(name, SparsitySample())) for name in PASSES)
    ]
    zeros = [
        f"{percent(share(getattr(total, f'{kind}_zeros'), getattr(total, name)))} of {name}"
        for kind, name in (
            ("activation", "activations"),
            ("gradient", "gradients"),
            ("weight", "weights"),
        )
    ]
    uncounted = f"; not looked into: {short(total.uncounted)} MACs" if total.uncounted else ""
    lines = [
        f"non-zero MACs, sampled on {ledger.sampled_steps:,} of {steps:,} steps: "
        f"{percent(share(total.nonzero, total.macs))} ({'; '.join(each)})",
        f"zeros there: {', '.join(zeros)}{uncounted}",
    ]
    return [*map(fit, lines)]
