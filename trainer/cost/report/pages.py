"""The pages of `cost`, `bill` and `profile`: which figures each of them has.

The other steps on the way to a page are listed in `figures.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from ..machines.machine import Machine
from ..phases import NAMES, PASSES
from ..price import Price, add_up
from ..workload import moved
from .figures import Figure, Ratio, RooflinePoint, SeriesTable, against, energy, exchange, stacked
from .figures import memory as memory_figure
from .figures import roofline as roofline_figure
from .model.bill import BillReport, CollectiveReport
from .model.cost import CostReport, Totals
from .model.profile import ProfileReport
from .page import render

Prices: TypeAlias = Mapping[str, Mapping[str, Price]]  # by layer and phase
PEAK = "Peak memory of results"
NO_MACS = "No layer does any MACs."


def of_cost(report: CostReport, machine: Machine | None) -> str:
    """Return the HTML page of a model's report; `machine` adds its roofline."""
    totals, machine = report.totals, machine and machine.at(report.precision)
    prices = {layer.name: layer.prices for layer in report.layers}
    macs = {(layer.name, p): layer.passes[p].macs for layer in report.layers for p in PASSES}
    series = {phase: NAMES[phase] for phase in PASSES}
    about = "Multiply-accumulates of a step, by layer and pass."
    table = SeriesTable(
        [layer.name for layer in report.layers],
        [[layer.passes[phase].macs for phase in PASSES] for layer in report.layers],
    )
    figures = [
        stacked("work", "Work", about, series, table, "MAC", NO_MACS),
        *_energies(prices),
        _under_roofs(prices, machine, macs),
        memory_figure(
            f"{PEAK} while a layer works, in a step.",
            [(e.name, {p: e.passes[p].peak_bytes for p in PASSES}) for e in report.layers],
        ),
        against(_ratios(totals)),
        exchange(4 * totals.parameters if totals.training else 0),
    ]
    what = "a step of training" if totals.training else "inference"
    shape = " x ".join(map(str, report.input))
    lead = [f"{what.capitalize()}, batch {report.batch:,}, images of {shape}.", *_of(machine)]
    title = f"What {report.model} costs"
    return render(title, lead, figures, report.metrics, report.conventions)


def of_bill(report: BillReport, machine: Machine | None) -> str:
    """Return the HTML page of a run's bill; `machine` adds its roofline."""
    machine = machine and machine.at(report.precision)
    phases = {layer.name: layer.phases for layer in report.layers}
    prices = {name: {p: phase.work.price for p, phase in phases[name].items()} for name in phases}
    macs = {(name, p): phase.work.cost.macs for name in phases for p, phase in phases[name].items()}
    order = [phase for phase in NAMES if phase in report.phases]
    table = SeriesTable([*phases], [[macs.get((name, p), 0) for p in order] for name in phases])
    about = "Multiply-accumulates of the whole run, by layer and phase."
    series = {phase: NAMES[phase] for phase in order}
    figures = [
        stacked("work", "Work", about, series, table, "MAC", NO_MACS),
        *_energies(prices, {p: report.phases[p].work.price for p in order}),
        _under_roofs(prices, machine, macs),
        memory_figure(
            f"{PEAK} on one rank while a layer worked.",
            [(name, {p: one.peak_bytes for p, one in phases[name].items()}) for name in phases],
        ),
        against(_billed_ratios(report)),
        sent(report.collectives),
    ]
    lead = [
        f"{report.steps:,} steps, {report.images:,} images, {report.seconds:,.1f} seconds.",
        *_of(machine),
    ]
    notes = {"not recorded": ", ".join(report.not_recorded)}
    return render(f"What {report.checkpoint} cost", lead, figures, report.metrics, notes)


def of_profile(report: ProfileReport) -> str:
    """Return the HTML page of a profile: times, roofline, training against inference."""
    order = [p for p in NAMES if any(one.phase == p for one in report.layers)]
    times: dict[str, list[float]] = {one.layer: [0.0] * len(order) for one in report.layers}
    for one in report.layers:
        if one.phase in order:
            times[one.layer][order.index(one.phase)] += one.seconds
    points = [
        RooflinePoint(one.layer, one.phase, one.cost.macs, one.bytes, one.seconds)
        for one in report.layers
        if one.cost.macs
    ]
    forward = sum(one.seconds for one in report.layers if one.phase == "forward")
    about = "Median seconds of a step that kernels take, by layer and pass, in one thread."
    figures = [
        stacked(
            "time", "Time", about, {p: NAMES[p] for p in order},
            SeriesTable([*times], [*times.values()]), "s", "No kernel took any time.",
        ),
        roofline_figure(
            "roofline", report.roofs.roofline, points,
            f"Measured points and measured roofs: of products in {report.roofs.precision} and of "
            "a copy. A point above the slope had its operands in caches; one above the flat roof "
            "did without some multiplications, as Winograd's method does.",
        ),
        against([Ratio("time", "s", forward, report.seconds if len(order) > 1 else 0.0)]),
    ]  # fmt: skip
    lead = [f"Batch {report.batch:,}, backend {report.backend}."]
    notes = {"energy of a step, in joules": str(report.energy)}
    return render(f"Where {report.model} spends its time", lead, figures, None, notes)


def _of(machine: Machine | None) -> list[str]:
    if machine is None:
        return ["No machine: --machine NAME prices the work."]
    notes = filter(None, (machine.precision_note, machine.time_note, machine.note))
    return [f"Machine: {machine.name}. {machine.source}.", *notes]


def _energies(layers: Prices, phases: Mapping[str, Price] | None = None) -> list[Figure]:
    """Return two figures of energy by level: by phase, by default summed over layers, and by
    layer."""
    if phases is None:
        order = [p for p in NAMES if any(p in prices for prices in layers.values())]
        phases = {p: add_up(prices[p] for prices in layers.values() if p in prices) for p in order}
    of_layers = [(name, add_up(prices.values())) for name, prices in layers.items()]
    about = "Energy of arithmetic and of each level of memory, by"
    return [
        energy("levels", "Energy by pass", f"{about} pass.", [
            (NAMES[p], price) for p, price in phases.items()
        ]),
        energy("layers", "Energy by layer", f"{about} layer.", of_layers),
    ]  # fmt: skip


def _under_roofs(
    layers: Prices, machine: Machine | None, macs: Mapping[tuple[str, str], int]
) -> Figure:
    """Return the roofline of the passes that a machine prices, with modelled times."""
    title, about = "Roofline", "Layers and passes under the roofs of the machine."
    if machine is None:
        return Figure(title, about, missing="No machine, no roofs: --machine NAME gives them.")
    roofs = machine.roofline
    if roofs is None:
        reason = f"{machine.name} tells not both a peak and a bandwidth, so it has no roofs."
        return Figure(title, about, missing=reason)
    points = [*_points(layers, macs, roofs.memory)]
    return roofline_figure("roofline", roofs, points, f"{about} Times are modelled.")


def _points(
    layers: Prices, macs: Mapping[tuple[str, str], int], memory: str
) -> Iterator[RooflinePoint]:
    for name, prices in layers.items():
        for phase, price in prices.items():
            work, seconds = macs.get((name, phase), 0), price.latency_seconds
            on_chip = memory == "global buffer"
            traffic = price.global_buffer_bytes if on_chip else price.dram_bytes
            if work and phase in NAMES and traffic is not None and seconds is not None:
                yield RooflinePoint(name, phase, work, traffic, seconds)


def _ratios(totals: Totals) -> list[Ratio]:
    training = totals.training
    if training is None:
        return []
    return [
        Ratio("MACs", "MAC", totals.inference_macs, training.total_macs),
        Ratio("bytes", "B", totals.inference_bytes, training.total_bytes),
        *_energy_ratio(totals.inference_price, training.price, None),
    ]


def _billed_ratios(report: BillReport) -> list[Ratio]:
    forward, total = report.forward.work, report.total
    evaluation = report.phases.get("evaluate")
    other = evaluation.work if evaluation else None
    return [
        Ratio("MACs", "MAC", forward.cost.macs, report.training_macs),
        Ratio(
            "bytes",
            "B",
            moved(forward.cost),
            moved(total.cost) - (moved(other.cost) if other else 0),
        ),
        *_energy_ratio(forward.price, total.price, other.price if other else None),
    ]


def _energy_ratio(
    inference: Price | None, training: Price | None, evaluation: Price | None
) -> list[Ratio]:
    """Return the energy of training without evaluation against that of inference, nothing where
    either is unknown."""
    if inference is None or training is None:
        return []
    one, whole = inference.energy, training.energy
    if one is None or whole is None:
        return []
    other = (evaluation.energy or 0) if evaluation else 0
    unit = "J" if inference.joules is not None else "MAC energies"
    return [Ratio("energy", unit, one, whole - other)]


def sent(collectives: Sequence[CollectiveReport]) -> Figure:
    """Return the bytes that a run sent, by collective and by what was exchanged."""
    kinds = {c.collective: c.algorithm for c in collectives if c.bytes_sent > 0}
    algorithms = "; ".join(f"{name}: {algorithm}" for name, algorithm in kinds.items())
    about = "Bytes that all ranks together sent, by collective, as these algorithms send them."
    sums: dict[str, float] = {}
    for c in collectives:
        name = f"{c.of}, {c.collective}"
        sums[name] = sums.get(name, 0) + c.bytes_sent
    table = SeriesTable([*sums], [[value] for value in sums.values()])
    missing = "This run sent nothing: it had one rank."
    about = f"{about} {algorithms}." if kinds else about
    return stacked("sent", "Communication", about, {"sent": "sent"}, table, "B", missing)
