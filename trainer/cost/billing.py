"""The bill of a run: what a machine makes of its ledger.

A machine that prices layers by their shapes has the model of the run counted again on shapes, for
each batch size that the ledger tells of; one that works only where no factor is zero has the events
that were sampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import mul
from typing import TypeAlias, TypeVar

from ...autograd.ledger import Cost, Key, Ledger
from ..errors import UserError
from .machines.machine import Machine
from .phases import NAMES, PASSES, REPEATED
from .price import Price, add_up
from .report.ledger import training_macs
from .report.metrics import of_run
from .report.model.bill import BillReport, PhaseReport, PricedCost, RunLayer
from .report.model.common import MachineReport
from .report.run_history import Priced, collectives, epochs, restarts
from .report.sampled_sparsity import sparsity_report
from .run import Run
from .sparsity import nonzero_macs
from .workload import KINDS, Work, count, moved

T = TypeVar("T", bound=Hashable)
Passes: TypeAlias = dict[tuple[str, str], Price]  # by scope and phase
FORWARD = ("forward", *REPEATED)
JOULES_PER_KWH = 3.6e6
NOT_RECORDED = (
    "steps of a run that died since the last line of its log",
    "ledgers and buffers that ranks gather for a checkpoint",
)
PARTS = {
    "training": ("forward", "backward_data", "backward_weights", "update"),
    "recomputation": ("recompute",),
    "evaluation": ("evaluate",),
    "exchange": ("communicate",),
}


def bill_report(
    run: Run, machine: Machine | None = None, grams_co2_per_kwh: float | None = None
) -> BillReport:
    """Return the bill of a run: by phase, part, layer and epoch. A machine prices it, and with it
    an intensity in grams of CO2 a kilowatt hour is turned into grams. UserError for a run that the
    machine cannot price, or not in joules."""
    prices = price_run(run, machine)
    of = partial(_priced, prices, grams_co2_per_kwh)
    phases = _phases(run.ledger, prices)
    costs = run.ledger.by("phase")
    forward, training = costs.get("forward", Cost()).macs, training_macs(costs)
    sampled = sparsity_report(run.ledger, run.steps) if run.ledger.sampled_steps else None
    total = of(costs)
    restarted = partial(restarts, ledger=run.ledger, steps=run.steps, evaluations=run.evaluations)
    return BillReport(
        checkpoint=run.source,
        steps=run.steps,
        epochs=run.epochs,
        images=run.images,
        seconds=run.seconds,
        phases=phases,
        parts=_parts(costs, of),
        total=total,
        layers=_layers(run.ledger, prices),
        collectives=collectives(run.ledger),
        each_epoch=epochs(run.each_epoch, of),
        restarts=restarted(run.restarts, priced=of),
        unsaved=restarted(run.unsaved, priced=of),
        training_macs=training,
        training_over_inference=training / forward if forward else 0.0,
        inferences=training * run.images / forward if forward else 0.0,
        not_recorded=NOT_RECORDED,
        metrics=of_run(run, phases.get("forward"), total, sampled, machine),
        sparsity=sampled,
        machine=_machine(run, machine),
        grams_co2_per_kwh=grams_co2_per_kwh,
    )


def _parts(costs: Mapping[str, Cost], priced: Priced) -> dict[str, PricedCost]:
    return {
        part: priced({name: costs[name] for name in names if name in costs})
        for part, names in PARTS.items()
    }


def _machine(run: Run, machine: Machine | None) -> MachineReport | None:
    return None if machine is None else MachineReport.of(machine, _basis(run, machine))


def _basis(run: Run, machine: Machine) -> str | None:
    """Return what the events of a run are taken from, None for a machine without events."""
    if not machine.uses_zeros or machine.needs_shapes:
        return None
    if not run.ledger.sampled_steps:
        return "no step was sampled: every MAC is an event, an upper bound"
    return f"events as sampled on {run.ledger.sampled_steps:,} of {run.steps:,} steps"


def _priced(prices: Prices, intensity: float | None, phases: Mapping[str, Cost]) -> PricedCost:
    """Return the work of phases and its price, with grams of CO2 where there is an intensity."""
    total = Cost()
    for cost in phases.values():
        total = total.plus(cost)
    price = prices.part(phases)
    if intensity is None:
        return PricedCost(total, price)
    if price.mac_energies is not None:
        raise UserError("--co2: the machine tells energy in that of MACs, not in joules")
    kwh = (price.joules or 0.0) / JOULES_PER_KWH
    return PricedCost(total, price, kwh * intensity)


def _phases(ledger: Ledger, prices: Prices) -> dict[str, PhaseReport]:
    costs, memory = ledger.by("phase"), _memory(ledger, lambda key: key.phase)
    return {
        name: PhaseReport(PricedCost(cost, prices.of(cost, phase=name)), *memory[name])
        for name, cost in ((name, costs[name]) for name in NAMES if name in costs)
    }


def _layers(ledger: Ledger, prices: Prices) -> list[RunLayer]:
    costs: dict[str, dict[str, Cost]] = {}
    for (scope, phase), cost in ledger.sums(lambda key: key.scope_and_phase).items():
        costs.setdefault(scope, {})[phase] = cost
    memory = _memory(ledger, lambda key: key.scope_and_phase)
    return [
        RunLayer(scope, {
            name: PhaseReport(PricedCost(c, prices.of(c, scope, name)), *memory[scope, name])
            for name, c in phases.items()
        })
        for scope, phases in costs.items()
    ]  # fmt: skip


def _memory(ledger: Ledger, what: Callable[[Key], T]) -> dict[T, tuple[int, int]]:
    """Return, for each phase say, bytes that the tape kept in it, all calls together, and the most
    that were alive at once on one rank."""
    memory: dict[T, tuple[int, int]] = {}
    for row in ledger.rows():
        stashed, peak = memory.get(what(row.key), (0, 0))
        memory[what(row.key)] = stashed + row.stashed, max(peak, row.peak)
    return memory


@dataclass(frozen=True)
class Prices:
    """Prices of a run on a machine, None for no machine. `phases` are the costs of the run by
    phase; `passes` the prices of its layers, where the price of a sum is not that of its cost."""

    machine: Machine | None
    phases: Mapping[str, Cost] = field(default_factory=dict)
    passes: Passes = field(default_factory=dict)

    def of(self, cost: Cost, scope: str | None = None, phase: str | None = None) -> Price:
        """Return the price of what the run did in a scope and a phase, None for all of them."""
        if self.machine is None:
            return Price()
        if self.machine.is_linear:
            return self.machine.price(cost)
        return add_up(
            price
            for (where, what), price in self.passes.items()
            if scope in (None, where) and phase in (None, what)
        )

    def part(self, phases: Mapping[str, Cost]) -> Price:
        """Return the price of a part of the run, given by phase. Where layers are priced, a part
        has the share in its phase's price that it has in its MACs, or bytes if it has none."""
        prices = []
        for name, cost in phases.items():
            price = self.of(cost, phase=name)
            if self.machine is not None and not self.machine.is_linear:
                price = price.scaled(partial(mul, _share(cost, self.phases.get(name, Cost()))))
            prices.append(price)
        return add_up(prices)


def price_run(run: Run, machine: Machine | None) -> Prices:
    """Return the prices of a run. UserError where its layers are wanted and are not on record, or
    are not those of its ledger."""
    if machine is None:
        return Prices(None)
    phases = run.ledger.by("phase")
    if machine.is_linear:
        return Prices(machine, phases)
    if not machine.needs_shapes:
        return Prices(machine, phases, _from_ledger(run.ledger, machine))
    try:
        return Prices(machine, phases, _from_shapes(run, machine))
    except ValueError as error:
        raise UserError(f"{run.source}: --machine {machine.name} prices layers: {error}") from error


def _share(part: Cost, whole: Cost) -> float:
    done, of = (cost.macs if whole.macs else moved(cost) for cost in (part, whole))
    return done / of if of else 0.0


def _from_ledger(ledger: Ledger, machine: Machine) -> Passes:
    """Return the prices of what layers did, on a machine that need not know their shapes: of MACs
    without a zero as they were sampled."""
    costs, events = ledger.sums(lambda key: key.scope_and_phase), nonzero_macs(ledger)
    return {key: machine.price(cost, events[key]) for key, cost in costs.items()}


def _from_shapes(run: Run, machine: Machine) -> Passes:
    """Return the prices of the layers of the model on record. ValueError where the MACs are not
    those of the ledger."""
    name, shape, classes = _model(run)
    one = count(name, 1, shape, classes, training=True)
    prices: dict[tuple[str, str], list[Price]] = {}
    macs: Counter[str] = Counter()
    for phase, sizes in _batches(one, run.ledger).items():
        for size, times in sizes.items():
            work = count(name, size, shape, classes, training=phase != "evaluate")
            for own, shown in _pairs(phase):
                macs[shown] += times * work.phase(own).macs
                for layer in work.layers:
                    if price := machine.price_layer(layer, own):
                        sums = prices.setdefault((layer.name, shown), [])
                        sums.append(price.scaled(partial(mul, times)))
    for phase, cost in run.ledger.by("phase").items():
        if cost.macs != macs[phase]:
            raise ValueError(
                f"the ledger has {cost.macs} MACs of phase {phase}, {name} on record {macs[phase]}"
            )
    return {key: add_up(some) for key, some in prices.items()}


def _pairs(phase: str) -> list[tuple[str, str]]:
    """Return which passes a forward pass of a phase goes with, and the phase that shows each."""
    return [(name, name) for name in PASSES] if phase == "forward" else [("forward", phase)]


def _model(run: Run) -> tuple[str, tuple[int, int, int], int]:
    """Return name, input and classes on record. ValueError where they are not."""
    name, shape, classes = run.model, run.input, run.classes
    numbers = [*shape, classes] if isinstance(shape, list) else []
    if not isinstance(name, str) or len(numbers) != 4:
        raise ValueError(f"model {name!r:.60} with input {shape!r:.60} is on record")
    if not all(type(n) is int and 0 < n < 1 << 20 for n in numbers):
        raise ValueError(f"input {shape!r:.60} with {classes!r:.60} classes is on record")
    c, h, w, classes = numbers
    return name, (c, h, w), classes


def _batches(one: Work, ledger: Ledger) -> dict[str, dict[int, int]]:
    """Return how many forward passes of each phase were done on how many images, by the calls of
    one layer: their MACs tell for how many images each was. `one` is the work of one image.
    ValueError where there is no such layer."""
    layers = [layer for layer in one.layers if len(layer.shapes) == 1]
    if not layers:
        raise ValueError(f"{one.model} has no layer of filters that is called once")
    layer, sizes = layers[0], dict[str, dict[int, int]]()
    each = layer.macs("forward")
    for (scope, phase, primitive, _, cost), n in ledger.calls.items():
        if scope == layer.name and phase in FORWARD and primitive in KINDS:
            images, remainder = divmod(cost.macs, each)
            if remainder or not 0 < images < 1 << 30:
                raise ValueError(f"a call of {scope} has {cost.macs} MACs, an image {each}")
            counts = sizes.setdefault(phase, {})
            counts[images] = counts.get(images, 0) + n
    return sizes
