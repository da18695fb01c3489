"""The figures of the pages of `cost`, `bill` and `profile`.

A figure is a title, a sentence, and a chart with a table of the same numbers, or the reason why
there is nothing to draw. A page is made in four steps, one module each:

    pages.py     which figures a report has; takes typed reports apart into labels and numbers
    figures.py   numbers to a figure: what is drawn, what is only listed, how both are labelled
    charts.py    numbers to SVG elements: bars, and points and lines on logarithmic axes
    page.py      figures, metrics and notes to one HTML file; markup.py escapes every text

Nothing here reads a model, a ledger or a run. Energies are in joules or in multiples of a MAC's,
times in seconds, traffic in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from ..cluster.allreduce import doubling_volume, ring_volume
from ..phases import NAMES, WHOLE
from ..price import JOULES, MACS, Price
from ..roofline import Roofline, intensity
from .charts import Bar, ChartLine, Point, bars, drawable, log_chart
from .units import si

# Levels of energy by the names that machines give them (`Price.levels`), in the order of the bars.
LEVELS = {
    "mac": "MACs",
    "arithmetic": "arithmetic",
    "register_file": "register file",
    "array": "array",
    "sram": "SRAM",
    "buffer": "buffer",
    "memory": "memory",
    "dram": "DRAM",
}
MOST_ROWS = 40  # of a chart; its table has all of them
RANKS = tuple(2**k for k in range(1, 13))  # of the chart of communication: 2 to 4096


class Figure(NamedTuple):
    """A title, a sentence of explanation, and a chart with a table, or in `missing` why there is
    none. `legend` names the series in order; the cells of `rows` are texts and numbers."""

    title: str
    about: str
    chart: Element | None = None
    legend: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str | float]] = ()
    missing: str = ""


class RooflinePoint(NamedTuple):
    """A layer and pass under a roofline: MACs, bytes of the memory of the roof, and seconds."""

    layer: str
    phase: str
    macs: float
    bytes: float
    seconds: float


class Ratio(NamedTuple):
    """A quantity of inference and of training, in one unit."""

    what: str
    unit: str
    inference: float
    training: float


class SeriesTable(NamedTuple):
    """The rows of a bar chart: for each label the sizes of its parts, one per series."""

    labels: list[str]
    parts: list[list[float]]


def stacked(
    key: str, title: str, about: str, series: Mapping[str, str], table: SeriesTable, unit: str,
    missing: str,
) -> Figure:  # fmt: skip
    """Return a figure of stacked bars. `series` maps keys of parts to names; series and rows
    without any positive part are left out. Without rows the figure says what is `missing`."""
    used = [i for i in range(len(series)) if any(row[i] > 0 for row in table.parts)]
    rows = [
        (label or WHOLE, [row[i] for i in used])
        for label, row in zip(table.labels, table.parts, strict=True)
        if any(part > 0 for part in row)
    ]
    if not rows:
        return Figure(title, about, missing=missing)
    names = [[*series.values()][i] for i in used]
    chart = bars(key, title, about, _largest(rows, unit))
    if len(names) > 1:
        rows = [(label, [*parts, math.fsum(parts)]) for label, parts in rows]
    sums = [math.fsum(column) for column in zip(*[parts for _, parts in rows], strict=True)]
    head = ("", *[f"{name} ({unit})" for name in [*names, "sum"][: len(sums)]])
    rows.append(("sum", sums))
    return Figure(title, about, chart, names, head, [(label, *parts) for label, parts in rows])


def _largest(rows: Sequence[tuple[str, list[float]]], unit: str) -> list[Bar]:
    """Return bars of the `MOST_ROWS` largest rows, in the order of the table, and one bar for the
    sum of the others."""
    order = sorted(range(len(rows)), key=lambda i: -math.fsum(rows[i][1]))
    shown = sorted(order[:MOST_ROWS])
    drawn = [Bar(rows[i][0], rows[i][1], si(math.fsum(rows[i][1]), unit)) for i in shown]
    if rest := [rows[i][1] for i in order[MOST_ROWS:]]:
        parts = [math.fsum(column) for column in zip(*rest, strict=True)]
        drawn.append(Bar(f"the other {len(rest)}", parts, si(math.fsum(parts), unit)))
    return drawn


def energy(key: str, title: str, about: str, prices: Sequence[tuple[str, Price]]) -> Figure:
    """Return the energy of labelled prices by level, in joules or in multiples of a MAC's;
    `about` says what the labels are."""
    relative = any(price.mac_energies is not None for _, price in prices)
    unit, name = (MACS, "MAC energies") if relative else (JOULES, "J")
    parts = [
        [p.levels.get(level, 0.0) if p.unit == unit else 0.0 for level in LEVELS] for _, p in prices
    ]
    if not any(p.energy is not None and p.unit == unit for _, p in prices):
        missing = "No energy is known: --machine NAME prices the work."
    else:
        missing = "This machine tells the sum of its energy only, not that of its levels."
    return stacked(
        key, title, about, LEVELS, SeriesTable([n for n, _ in prices], parts), name, missing
    )


def roofline(key: str, roofs: Roofline, passes: Sequence[RooflinePoint], about: str) -> Figure:
    """Return the roofline (Williams, Waterman and Patterson 2009): MACs per second over MACs per
    byte for each layer and pass, under the roofs of a machine."""
    phases = [phase for phase in NAMES if any(one.phase == phase for one in passes)]
    timed: list[tuple[float, Point]] = []
    rows = []
    for name, phase, macs, moved, seconds in passes:
        layer = name or WHOLE
        per_byte, rate = intensity(macs, moved), macs / seconds if seconds > 0 else 0.0
        bound = roofs.bound(macs, moved)
        share = bound.seconds / seconds if seconds > 0 else 0.0
        rows.append((layer, NAMES[phase], per_byte, rate, bound.roof, f"{100 * share:.1f}%"))
        if drawable(per_byte, rate):
            label = f"{layer}, {NAMES[phase]}: {si(rate, 'MAC/s')} at {per_byte:.3g} MAC/B"
            timed.append((seconds, Point(per_byte, rate, phases.index(phase), label, layer)))
    if not timed:
        return Figure("Roofline", about, missing="No layer has both MACs and a time here.")
    points = [p for _, p in sorted(timed, key=lambda pair: -pair[0])]  # slow ones are named first
    ends = (min(p.x for p in points), roofs.ridge, max(p.x for p in points))
    roof = [(x, roofs.attainable(x)) for x in sorted(x for x in ends if drawable(x))]
    axes = (f"MACs a byte of {roofs.memory}", "MACs a second")
    chart = log_chart(key, "Roofline", about, axes, points, [ChartLine(roof)])
    head = ("layer", "pass", "MAC/B", "MAC/s", "roof that binds", "share of the bound")
    return Figure("Roofline", about, chart, [NAMES[p] for p in phases], head, rows)


def against(rows: Sequence[Ratio]) -> Figure:
    """Return bars of training beside inference, each relative to inference."""
    title = "Training against inference"
    about = (
        "What training takes, for each unit that its own forward passes take: all passes, for "
        "bytes and energy with loss, update and exchange."
    )
    known = [row for row in rows if row.inference > 0 and row.training > 0]
    if not known:
        return Figure(title, about, missing="Only one of both is known here: see --training.")
    drawn, cells = [], []
    for what, unit, inference, training in known:
        ratio = training / inference
        drawn.append(Bar(f"{what}, inference", [1.0], si(inference, unit)))
        text = f"{si(training, unit)}, {ratio:.4g} times"
        drawn.append(Bar(f"{what}, training", [0.0, ratio], text))
        cells.append((f"{what} ({unit})", inference, training, ratio))
    head = ("", "inference", "training", "ratio")
    chart = bars("against", title, about, drawn)
    return Figure(title, about, chart, ("inference", "training"), head, cells)


ALGORITHMS: dict[str, Callable[[int, int], float]] = {
    "ring, or halving and doubling": lambda size, ranks: float(ring_volume(size, ranks)),
    "recursive doubling": doubling_volume,
}


def exchange(size: int) -> Figure:
    """Return the bytes that each rank sends per step to reduce gradients of `size` bytes, by
    allreduce algorithm and number of ranks (formulas in `cluster/allreduce.py`)."""
    title = "Communication"
    about = "Bytes that each rank sends in a step to add up the gradients, by algorithm and ranks."
    if not size:
        return Figure(title, about, missing="Inference exchanges nothing: see --training.")
    sent = {name: [(p, sends(size, p)) for p in RANKS] for name, sends in ALGORITHMS.items()}
    points = [
        Point(p, y, i, f"{name}: {si(y, 'B')} a rank of {p}")
        for i, (name, curve) in enumerate(sent.items())
        for p, y in curve
    ]
    lines = [ChartLine(curve, i) for i, curve in enumerate(sent.values())]
    chart = log_chart(
        "exchange", title, about, ("ranks", "bytes sent by a rank"), points, lines, True
    )
    rows = [(p, *[sends(size, p) for sends in ALGORITHMS.values()]) for p in RANKS]
    return Figure(title, about, chart, [*sent], ("ranks", *[f"{n} (B)" for n in sent]), rows)


def memory(about: str, layers: Sequence[tuple[str, Mapping[str, int]]]) -> Figure:
    """Return the peak bytes of results alive at once while each layer worked: a bar for the largest
    of its phases, and all phases in the table."""
    title, order = "Memory", [p for p in NAMES if any(peaks.get(p) for _, peaks in layers)]
    used = [(name or WHOLE, peaks) for name, peaks in layers if any(peaks.values())]
    most = [max(peaks.values()) for _, peaks in used]
    if not used:
        return Figure(title, about, missing="Peak memory was not recorded.")
    largest = sorted(range(len(used)), key=lambda i: -most[i])[:MOST_ROWS]
    shown = [Bar(used[i][0], [most[i]], si(most[i], "B")) for i in sorted(largest)]
    chart = bars("memory", title, about, shown)
    rows: list[tuple[str | float, ...]]
    rows = [
        (name, high, *[peaks.get(p, 0) for p in order])
        for (name, peaks), high in zip(used, most, strict=True)
    ]
    head = ("", "most (B)", *[f"{NAMES[phase]} (B)" for phase in order])
    return Figure(title, about, chart, (), head, rows)
