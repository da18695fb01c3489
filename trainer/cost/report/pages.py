"""The pages of `cost`, `bill` and `profile`: which figures each of them has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..machines.machine import Machine
from ..phases import NAMES, PASSES
from ..roofline import Roofline
from .figures import Described, Figure, Table, against, by_pass, energy, exchange, stacked
from .figures import memory as memory_figure
from .figures import roofline as roofline_figure
from .page import render

Pass = tuple[str, str, float, float, float]  # layer, phase, MACs, bytes, seconds
TRAFFIC = {
    "DRAM": "dram_bytes", "global buffer": "global_buffer_bytes", "memory": "dram_bytes"
}  # fmt: skip
ALIVE = "The most bytes of results that are alive at once"
NO_MACS = "No layer does any MACs."


def of_cost(described: Described, machine: Machine | None) -> str:
    """Return the page of what `tallygrad cost` describes."""
    layers, totals = described["layers"], described["totals"]
    passes = {entry["name"]: entry.get("passes", {}) for entry in layers}
    series = {phase: NAMES[phase] for phase in PASSES}
    about = "Multiply-accumulates of a step, by layer and pass."
    training = "training" in totals
    size = 4 * totals["parameters"] if training else 0
    figures = [
        stacked("work", "Work", about, series, by_pass(layers, "macs"), "MAC", NO_MACS),
        *_energies(passes),
        _under_roofs(passes, machine, _macs(layers)),
        memory_figure(
            f"{ALIVE} while a layer works, in a step.",
            [(e["name"], {p: e[f"{p}_peak_bytes"] for p in PASSES}) for e in layers],
        ),
        against(_ratios(totals)),
        exchange(size),
    ]
    what = "a step of training" if training else "inference"
    shape = " x ".join(map(str, described["input"]))
    lead = [f"{what.capitalize()}, batch {described['batch']:,}, images of {shape}.", *_of(machine)]
    return render(
        f"What {described['model']} costs", lead, figures, described["metrics"],
        described["conventions"],
    )  # fmt: skip


def of_bill(described: Described, machine: Machine | None) -> str:
    """Return the page of what `tallygrad bill` describes."""
    layers = described["layers"]
    phases = {layer["name"]: layer["phases"] for layer in layers}
    order = [phase for phase in NAMES if phase in described["phases"]]
    macs = [[phases[name].get(p, {}).get("macs", 0) for p in order] for name in phases]
    about = "Multiply-accumulates of the whole run, by layer and phase."
    series = {phase: NAMES[phase] for phase in order}
    figures = [
        stacked("work", "Work", about, series, Table([*phases], macs), "MAC", NO_MACS),
        *_energies(phases, {p: described["phases"][p] for p in order}),
        _under_roofs(phases, machine, {}),
        memory_figure(
            f"{ALIVE} on one rank while a layer worked.",
            [(name, {p: held[p]["peak_bytes"] for p in held}) for name, held in phases.items()],
        ),
        against(_billed_ratios(described)),
        sent(described["collectives"]),
    ]
    lead = [
        f"{described['steps']:,} steps, {described['images']:,} images, "
        f"{described['seconds']:,.1f} seconds.",
        *_of(machine),
    ]
    notes = {"not recorded": ", ".join(described["not_recorded"])}
    return render(
        f"What {described['checkpoint']} cost", lead, figures, described["metrics"], notes
    )


def of_profile(described: Described) -> str:
    """Return the page of what `tallygrad profile` describes."""
    layers = described["layers"]
    order = [p for p in NAMES if any(e["pass"] == p for e in layers)]
    times: dict[str, list[float]] = {e["layer"]: [0.0] * len(order) for e in layers}
    for e in layers:
        if e["pass"] in order:
            times[e["layer"]][order.index(e["pass"])] += e["seconds"]
    roofs = Roofline(
        described["roofs"]["gflops"] / 2e-9, described["roofs"]["gbytes_per_second"] / 1e-9
    )
    points = [(e["layer"], e["pass"], e["macs"], e["bytes"], e["seconds"]) for e in layers]
    sums = {p: sum(e["seconds"] for e in layers if e["pass"] == p) for p in order}
    about = "Median seconds of a step that kernels take, by layer and pass, in one thread."
    whole = described["seconds"] if len(order) > 1 else 0.0
    figures = [
        stacked(
            "time", "Time", about, {p: NAMES[p] for p in order},
            Table([*times], [*times.values()]), "s", "No kernel took any time.",
        ),
        roofline_figure(
            "roofline", roofs, [point for point in points if point[2]],
            "Measured points and measured roofs: a matrix product's and a copy's. A point above "
            "the slope had its operands in caches; one above the flat roof did without some "
            "multiplications, as Winograd's method does.",
        ),
        against([("time", "s", sums.get("forward", 0.0), whole)]),
    ]  # fmt: skip
    lead = [f"Batch {described['batch']:,}, backend {described['backend']}."]
    notes = {"energy of a step, in joules": described["energy_joules"]}
    return render(f"Where {described['model']} spends its time", lead, figures, None, notes)


def _of(machine: Machine | None) -> list[str]:
    if machine is None:
        return ["No machine: --machine NAME prices the work."]
    return [f"Machine: {machine.name}. {machine.source}.", *([machine.note] * bool(machine.note))]


def _macs(layers: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(e["name"], phase): e[f"{phase}_macs"] for e in layers for phase in PASSES}


def _energies(
    layers: Mapping[str, Mapping[str, Mapping[str, float]]],
    phases: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Figure]:
    """Return energy by level of memory, of phases and of layers."""
    if phases is None:
        order = [p for p in NAMES if any(p in passes for passes in layers.values())]
        phases = {p: _sum([passes.get(p, {}) for passes in layers.values()]) for p in order}
    of_layers = [(name, _sum([*passes.values()])) for name, passes in layers.items()]
    about = "Energy of arithmetic and of each level of memory, by"
    return [
        energy("levels", "Energy by pass", f"{about} pass.", [
            (NAMES[p], price) for p, price in phases.items()
        ]),
        energy("layers", "Energy by layer", f"{about} layer.", of_layers),
    ]  # fmt: skip


def _sum(prices: list[Mapping[str, float]]) -> dict[str, float]:
    keys = {key for price in prices for key in price if key.startswith("energy_")}
    return {key: sum(price.get(key, 0.0) for price in prices) for key in keys}


def _under_roofs(
    layers: Mapping[str, Mapping[str, Mapping[str, float]]], machine: Machine | None,
    macs: Mapping[tuple[str, str], int],
) -> Figure:  # fmt: skip
    """Return the roofline of passes that a machine prices; `macs` where prices do not tell them."""
    title, about = "Roofline", "Layers and passes under the roofs of the machine."
    if machine is None:
        return Figure(title, about, missing="No machine, no roofs: --machine NAME gives them.")
    roofs = machine.roofline
    if roofs is None:
        lacks = f"{machine.name} tells not both a peak and a bandwidth, so it has no roofs."
        return Figure(title, about, missing=lacks)
    points = [*_points(layers, macs, TRAFFIC[roofs.memory])]
    return roofline_figure("roofline", roofs, points, f"{about} Times are modelled.")


def _points(
    layers: Mapping[str, Mapping[str, Mapping[str, float]]],
    macs: Mapping[tuple[str, str], int], traffic: str,
) -> Iterator[Pass]:  # fmt: skip
    for name, passes in layers.items():
        for phase, price in passes.items():
            done = price.get("macs", macs.get((name, phase), 0))
            if done and phase in NAMES and {traffic, "latency_seconds"} <= {*price}:
                yield name, phase, done, price[traffic], price["latency_seconds"]


def _ratios(totals: Described) -> list[tuple[str, str, float, float]]:
    if "training" not in totals:
        return []
    training = totals["training"]
    rows = [
        ("MACs", "MAC", totals["inference_macs"], training["total_macs"]),
        ("bytes", "B", totals["inference_bytes"], training["total_bytes"]),
    ]
    prices = totals.get("on_machine", {})
    return [*rows, *_energy_ratio(prices.get("inference", {}), prices.get("training", {}))]


def _billed_ratios(described: Described) -> list[tuple[str, str, float, float]]:
    forward, total = described["phases"].get("forward", {}), described["total"]
    other = described["phases"].get("evaluate", {})
    spent = {key: total[key] - other.get(key, 0) for key in total}
    moved = [sum(c.get(f"bytes_{way}", 0) for way in ("read", "written")) for c in (forward, spent)]
    return [
        ("MACs", "MAC", forward.get("macs", 0), described["training_macs"]),
        ("bytes", "B", moved[0], moved[1]),
        *_energy_ratio(forward, spent),
    ]


def _energy_ratio(
    inference: Mapping[str, float], training: Mapping[str, float]
) -> list[tuple[str, str, float, float]]:
    for key, unit in (("energy_joules", "J"), ("energy_macs", "MAC energies")):
        if key in inference and key in training:
            return [("energy", unit, inference[key], training[key])]
    return []


def sent(collectives: Sequence[Described]) -> Figure:
    """Return what a run sent, by collective and by what it was."""
    kinds = {c["collective"]: c["algorithm"] for c in collectives if c["bytes_sent"] > 0}
    algorithms = "; ".join(f"{name}: {algorithm}" for name, algorithm in kinds.items())
    about = "Bytes that all ranks together sent, by collective, as these algorithms send them."
    sums: dict[str, float] = {}
    for c in collectives:
        name = f"{c['of']}, {c['collective']}"
        sums[name] = sums.get(name, 0) + c["bytes_sent"]
    table = Table([*sums], [[value] for value in sums.values()])
    missing = "This run sent nothing: it had one rank."
    about = f"{about} {algorithms}." if kinds else about
    return stacked("sent", "Communication", about, {"sent": "sent"}, table, "B", missing)
