"""The parts of a bill that tell of a run's course: epochs, restarts, and what ranks exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....autograd.ledger import Cost, Ledger
from ...components.history import Epoch, Restart
from ...errors import printable
from .text_table import Column, fit, name_column, text_table
from .units import digits, short

# Bytes and messages are those of these algorithms: what a library of MPI does is not observable.
COLLECTIVES = {
    "allreduce": "ring; in a fixed order all-to-all and allgather, which send as much",
    "broadcast": "binomial tree",
}
Figures = Callable[[Mapping[str, Cost]], dict[str, Any]]
SHOWN = 20  # epochs in the text
EXCHANGE = (
    name_column("exchange"), name_column("of"), Column("calls", 2), Column("messages", 1),
    Column("bytes"),
)  # fmt: skip
EPOCHS = (
    Column("epoch"), Column("steps", 1), Column("images", 2), Column("MACs"),
    Column("other ops", 3), Column("bytes read", 4), Column("bytes written", 4),
    Column("bytes sent", 4), Column("s"),
)  # fmt: skip


def collectives(ledger: Ledger) -> list[dict[str, Any]]:
    """Return calls, bytes and messages of each collective and of what it exchanged, all ranks
    together."""
    return [
        {
            "collective": row.key.primitive,
            "of": row.key.scope,
            "calls": row.calls,
            "bytes_sent": row.cost.bytes_sent,
            "messages": row.cost.messages,
            "algorithm": COLLECTIVES[row.key.primitive],
        }
        for row in ledger.rows()
        if row.key.primitive in COLLECTIVES
    ]


def epochs(found: Sequence[Epoch], figures: Figures) -> list[dict[str, Any]]:
    """Return what each whole epoch took by itself."""
    return [
        {
            "epoch": e.epoch,
            "steps": e.step,
            "images": e.images,
            "seconds": e.seconds,
            "seconds_aside": e.overhead_seconds,
            **figures(e.phases),
            "phases": {name: figures({name: cost}) for name, cost in e.phases.items()},
        }
        for e in found
    ]


def step(ledger: Ledger, steps: int, done: int) -> dict[str, Cost]:
    """Return what `done` steps of training cost by phase, where the books have `steps` of them:
    without evaluation and without what is exchanged at a start and for a checkpoint."""
    found: dict[str, Cost] = {}
    for row in ledger.rows():
        aside = row.key.scope in ("weights", "buffers") and row.key.phase == "communicate"
        if row.key.phase != "evaluate" and not aside:
            found[row.key.phase] = found.get(row.key.phase, Cost()).plus(row.cost)
    return {name: _scaled(cost, done, steps) for name, cost in found.items()}


def evaluation(ledger: Ledger, evaluations: int, done: int) -> Cost:
    """Return what `done` evaluations cost, where the books have `evaluations` of them."""
    whole = ledger.total(lambda key: key.phase == "evaluate" and key.scope != "metrics")
    return _scaled(whole, done, evaluations)


def _scaled(cost: Cost, done: int, of: int) -> Cost:
    return Cost(*[n * done // of for n in cost]) if of else Cost()


def restarts(
    found: Sequence[Restart], ledger: Ledger, steps: int, evaluations: int, figures: Figures
) -> dict[str, Any]:
    """Return what was computed and lost, at least: steps at the average cost of the run's."""
    done, repeated = sum(r.at_least for r in found), sum(r.evaluations for r in found)
    lost = step(ledger, steps, done)
    lost["evaluate"] = evaluation(ledger, evaluations, repeated)
    return {
        "count": len(found),
        "steps_at_least": done,
        "steps_at_most": sum(r.at_most for r in found),
        "evaluations_at_least": repeated,
        "seconds_at_least": sum(r.seconds for r in found),
        **figures({name: cost for name, cost in lost.items() if any(cost)}),
        "each": [
            {**r._asdict(), "steps_at_least": r.at_least, "steps_at_most": r.at_most}
            for r in found
        ],
    }


def as_text(described: Mapping[str, Any]) -> list[str]:
    """Return the lines for people: epochs, exchange, restarts, as far as there are any."""
    lines = []
    if described["each_epoch"]:
        lines += [*_epochs(described["each_epoch"]), ""]
    sent = [c for c in described["collectives"] if c["messages"]]
    if sent:
        names = ("calls", "messages", "bytes_sent")
        rows = [
            (c["collective"], printable(c["of"]), *[short(c[name]) for name in names]) for c in sent
        ]
        used = dict.fromkeys(c["collective"] for c in sent)
        lines += text_table(EXCHANGE, rows)
        lines += [*[fit(f"{name}: counted as {COLLECTIVES[name]}") for name in used], ""]
    for name, what in (("restarts", "lost before"), ("unsaved", "beyond")):
        if described[name]["count"]:
            lines.append(fit(_lost(described[name], what)))
    return lines


def _epochs(every: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ("steps", "images", "macs", "other_ops", "bytes_read", "bytes_written", "bytes_sent")
    priced = [key for key in ("energy_joules", "energy_macs") if any(key in e for e in every)]
    heads = {"energy_joules": "J", "energy_macs": "energy in MACs"}
    columns = [*EPOCHS, *[Column(heads[key]) for key in priced]]
    rows = []
    for e in every[-SHOWN:]:
        cells = [short(e[name]) for name in names]
        cells += [f"{e['seconds']:.1f}", *[digits(e[key]) if key in e else "-" for key in priced]]
        rows.append((str(e["epoch"]), *cells))
    left = len(every) - SHOWN
    return [*text_table(columns, rows), *([f"{left} earlier epochs: --json"] if left > 0 else [])]


def _lost(held: Mapping[str, Any], what: str) -> str:
    """Return a line on steps that no checkpoint has."""
    if what == "beyond":
        start = "beyond the checkpoint, lost if the run has ended:"
    else:
        start = f"lost before {held['count']} restart{'s' if held['count'] > 1 else ''}:"
    figures = [
        f"{held['steps_at_least']:,} steps at least, {held['steps_at_most']:,} at most",
        f"{held['evaluations_at_least']} evaluations",
        f"{short(held['macs'])} MACs",
        f"{held['seconds_at_least']:.1f} s",
    ]
    if "energy_joules" in held:
        figures.append(f"{digits(held['energy_joules'])} J")
    return f"{start} {', '.join(figures)}"
