"""The bill of a run: its ledger, priced by a machine.

A ledger holds counts without shapes. For a machine that prices layers by their shapes, the model of
the run is counted again on shapes, once for each batch size in the ledger, and the sums must match
the ledger to the MAC. A machine that works only where no factor is zero is given the share of such
MACs on the steps that were sampled.
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
    "ledgers, buffers and times that ranks gather for a checkpoint",
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
    """Return the bill of a run: by phase, part, layer and epoch. A machine prices it, and a carbon
    intensity turns its joules into grams of CO2. UserError for a run that the machine cannot price,
    and for an intensity where its energies are not in joules."""
    machine = machine and machine.at(run.precision)
    prices = price_run(run, machine)
    priced = partial(_priced, prices, grams_co2_per_kwh)
    phases, costs = _phases(run.ledger, prices), run.ledger.by("phase")
    sampled = sparsity_report(run.ledger, run.steps) if run.ledger.sampled_steps else None
    total = priced(costs)
    lost = partial(restarts, run=run, priced=priced)
    return BillReport(
        checkpoint=run.source,
        steps=run.steps,
        epochs=run.epochs,
        images=run.images,
        seconds=run.seconds,
        precision=run.precision,
        phases=phases,
        parts=_parts(costs, priced),
        total=total,
        layers=_layers(run.ledger, prices),
        collectives=collectives(run.ledger),
        each_epoch=epochs(run.each_epoch, priced),
        restarts=lost(run.restarts),
        unsaved=lost(run.unsaved),
        training_macs=training_macs(costs),
        not_recorded=NOT_RECORDED,
        metrics=of_run(run, phases.get("forward"), total, sampled, machine),
        sparsity=sampled,
        machine=_machine(run, machine),
        grams_co2_per_kwh=grams_co2_per_kwh,
        exchange_exposed=run.exchange_exposed,
        exchange_hidden=run.exchange_hidden,
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
        raise UserError(
            "--co2: expected a machine with energies in joules, got one with energies relative to "
            "a MAC"
        )
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
    """Return, by phase for example, the bytes that the tape saved, summed over all calls, and the
    most bytes of results that were alive at once on one rank."""
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
        """Return the price of a part of the run, such as an epoch, from its costs by phase.

        Only sums over the whole run are known where layers are priced. There a part pays for its
        share of the phase's MACs, or of its bytes where it has no MACs.
        """
        prices = []
        for name, cost in phases.items():
            price = self.of(cost, phase=name)
            if self.machine is not None and not self.machine.is_linear:
                price = price.scaled(partial(mul, _share(cost, self.phases.get(name, Cost()))))
            prices.append(price)
        return add_up(prices)


def price_run(run: Run, machine: Machine | None) -> Prices:
    """Return the prices of a run. UserError where a machine prices layers and the model on record
    is missing or does not match the ledger."""
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
    amount, total = (cost.macs if whole.macs else moved(cost) for cost in (part, whole))
    return amount / total if total else 0.0


def _from_ledger(ledger: Ledger, machine: Machine) -> Passes:
    """Return the prices of layers and phases on a machine that needs no shapes but the share of
    MACs without a zero factor, which is the sampled one."""
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
                f"{phase}: expected the {macs[phase]} MACs of {name} on record, the ledger has "
                f"{cost.macs}"
            )
    return {key: add_up(some) for key, some in prices.items()}


def _pairs(phase: str) -> list[tuple[str, str]]:
    """Return the passes that belong to a forward pass counted under a phase, each with the phase
    that the bill shows it under: evaluation has a forward pass alone."""
    return [(name, name) for name in PASSES] if phase == "forward" else [("forward", phase)]


def _model(run: Run) -> tuple[str, tuple[int, int, int], int]:
    """Return name, input and classes on record. ValueError where they are not."""
    name, shape, classes = run.model, run.input, run.classes
    numbers = [*shape, classes] if isinstance(shape, list) else []
    if not isinstance(name, str) or len(numbers) != 4:
        raise ValueError(
            f"record: expected a model's name and input [C, H, W], got {name!r:.60} and "
            f"{shape!r:.60}"
        )
    if not all(type(n) is int and 0 < n < 1 << 20 for n in numbers):
        raise ValueError(
            f"record: expected whole numbers above 0 as input and classes, got {shape!r:.60} and "
            f"{classes!r:.60}"
        )
    c, h, w, classes = numbers
    return name, (c, h, w), classes


def _batches(one: Work, ledger: Ledger) -> dict[str, dict[int, int]]:
    """Return by phase how many forward passes ran on batches of each size: {phase: {images:
    calls}}.

    The ledger does not record batch sizes. They follow from the calls of one layer that runs once
    per pass: its MACs over those for a single image, which the work `one` has. ValueError where
    there is no such layer.
    """
    layers = [layer for layer in one.layers if len(layer.shapes) == 1]
    if not layers:
        raise ValueError(f"{one.model}: expected a layer of filters that is called once, got none")
    layer, sizes = layers[0], dict[str, dict[int, int]]()
    each = layer.macs("forward")
    for (scope, phase, primitive, _, cost), n in ledger.calls.items():
        if scope == layer.name and phase in FORWARD and primitive in KINDS:
            images, remainder = divmod(cost.macs, each)
            if remainder or not 0 < images < 1 << 30:
                raise ValueError(
                    f"{scope}: expected calls with a multiple of {each} MACs, those of an image, "
                    f"got {cost.macs}"
                )
            counts = sizes.setdefault(phase, {})
            counts[images] = counts.get(images, 0) + n
    return sizes
