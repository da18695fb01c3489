"""What a machine makes of the books of a run. A machine that prices layers by their shapes has the
model of the run counted again on shapes, for each batch size that its books tell of; one that works
only where no factor is zero has the events that were sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import mul
from pathlib import Path
from typing import Any, TypeAlias

from ...autograd.ledger import Cost, Ledger
from ..errors import UserError
from .machines.host import Host
from .machines.machine import Machine
from .phases import PASSES, PHASES, REPEATED
from .price import Price, add_up
from .report.sampled_sparsity import events
from .report.text import moved
from .sparsity import Zeros
from .workload import FEATURES, Work, count

Passes: TypeAlias = dict[tuple[str, str], Price]  # by scope and phase
FORWARD = ("forward", *REPEATED)


@dataclass(frozen=True)
class Prices:
    """Prices on a machine, None for no machine. `phases` are the costs of the run by phase;
    `passes` the prices of its layers, where that of a sum is not told by the sum of the costs."""

    machine: Machine | None
    phases: Mapping[str, Cost] = field(default_factory=dict)
    passes: Passes = field(default_factory=dict)

    def of(self, cost: Cost, scope: str | None = None, phase: str | None = None) -> Price:
        """Return the price of what the run did in a scope and a phase, None for all of them."""
        if self.machine is None:
            return Price()
        if self.machine.is_linear:
            return self.machine.price(cost)
        fits = [
            price
            for (where, what), price in self.passes.items()
            if scope in (None, where) and phase in (None, what)
        ]
        return add_up(fits)

    def part(self, phases: Mapping[str, Cost]) -> Price:
        """Return the price of a part of the run, given by phase. Where layers are priced, a part
        has the share in its phase's price that it has in its MACs, or bytes if it has none."""
        found = []
        for name, cost in phases.items():
            price = self.of(cost, phase=name)
            if self.machine is not None and not self.machine.is_linear:
                share = _share(cost, self.phases.get(name, Cost()))
                price = price.scaled(partial(mul, share))
            found.append(price)
        return add_up(found)


def prices(source: Path, meta: Mapping[str, Any], ledger: Ledger, machine: Machine) -> Prices:
    """Return the prices of a run that a checkpoint has on record. UserError where its layers are
    wanted and are not on record, or are not those of its books."""
    phases = ledger.by("phase")
    if machine.is_linear:
        return Prices(machine, phases)
    if not machine.needs_shapes:
        return Prices(machine, phases, _from_books(ledger, machine))
    try:
        return Prices(machine, phases, _passes(meta, ledger, machine))
    except ValueError as error:
        raise UserError(f"{source}: --machine {machine.name} prices layers: {error}") from error


def _share(part: Cost, whole: Cost) -> float:
    done, of = (cost.macs if whole.macs else moved(cost) for cost in (part, whole))
    return done / of if of else 0.0


def _from_books(ledger: Ledger, machine: Machine) -> Passes:
    """Return the prices of what layers did, on a machine that need not know their shapes: of MACs
    without a zero as they were sampled."""
    costs: dict[tuple[str, str], Cost] = {}
    for row in ledger.rows():
        key = row.key.scope, row.key.phase
        costs[key] = costs.get(key, Cost()).plus(row.cost)
    met = events(ledger)
    return {key: machine.price(cost, met[key]) for key, cost in costs.items()}


def _passes(meta: Mapping[str, Any], ledger: Ledger, machine: Machine) -> Passes:
    name, shape, classes = _model(meta)
    one = count(name, 1, shape, classes, training=True)
    found: dict[tuple[str, str], list[Price]] = {}
    macs: Counter[str] = Counter()
    for phase, sizes in _batches(one, ledger).items():
        for size, times in sizes.items():
            work = count(name, size, shape, classes, training=phase != "evaluate")
            for own, shown in _pairs(phase):
                macs[shown] += times * work.phase(own).macs
                for layer in work.layers:
                    price = machine.price_layer(layer, own)
                    if price:
                        sums = found.setdefault((layer.name, shown), [])
                        sums.append(price.scaled(partial(mul, times)))
    for phase, cost in ledger.by("phase").items():
        if cost.macs != macs[phase]:
            raise ValueError(
                f"the books have {cost.macs} MACs of phase {phase}, {name} on record {macs[phase]}"
            )
    return {key: add_up(some) for key, some in found.items()}


def _pairs(phase: str) -> list[tuple[str, str]]:
    """Return which passes a forward pass of a phase goes with, and the phase that shows each."""
    if phase == "forward":
        return [(name, name) for name in PASSES]
    return [("forward", phase)]


def _model(meta: Mapping[str, Any]) -> tuple[str, tuple[int, int, int], int]:
    """Return name, input and classes on record. ValueError where they are not."""
    name, shape, classes = (meta.get(key) for key in ("model", "input", "classes"))
    numbers = [*shape, classes] if isinstance(shape, list) else []
    if not isinstance(name, str) or len(numbers) != 4:
        raise ValueError(f"model {name!r:.60} with input {shape!r:.60} is on record")
    if not all(type(n) is int and 0 < n < 1 << 20 for n in numbers):
        raise ValueError(f"input {shape!r:.60} with {classes!r:.60} classes is on record")
    c, h, w, classes = numbers
    return name, (c, h, w), classes


def _batches(one: Work, ledger: Ledger) -> dict[str, dict[int, int]]:
    """Return how many forward passes of each phase were done on how many images, by the calls of
    one layer: what they cost tells for how many images each was. `one` is the work of one image.
    ValueError where there is no such layer."""
    layers = [layer for layer in one.layers if len(layer.shapes) == 1]
    if not layers:
        raise ValueError(f"{one.model} has no layer of filters that is called once")
    layer, sizes = layers[0], dict[str, dict[int, int]]()
    each = layer.macs("forward")
    for (scope, phase, primitive, _, cost), n in ledger.calls.items():
        if scope == layer.name and phase in FORWARD and primitive in FEATURES:
            images, rest = divmod(cost.macs, each)
            if rest or not 0 < images < 1 << 30:
                raise ValueError(f"a call of {scope} has {cost.macs} MACs, an image {each}")
            found = sizes.setdefault(phase, {})
            found[images] = found.get(images, 0) + n
    return sizes


def price(
    described: dict[str, Any], work: Work, machine: Machine, zeros: Zeros | None = None
) -> None:
    """Add what a machine makes of the work to the description: of each layer and pass, and of all
    of it."""
    described["machine"] = {
        "name": machine.name, "kind": machine.kind, "source": machine.source, "note": machine.note
    }  # fmt: skip
    sums: dict[str, list[Price]] = {phase: [] for phase in PHASES}
    for entry, layer in zip(described["layers"], work.layers, strict=True):
        known = zeros.of(layer.name) if zeros else None
        prices = {phase: machine.price_layer(layer, phase, known) for phase in PHASES}
        entry["passes"] = {phase: price.to_json() for phase, price in prices.items() if price}
        for phase, one in prices.items():
            sums[phase] += [one] if one else []
    if isinstance(machine, Host):
        energy = {} if machine.has_energy else {"energy_joules": "not available"}
        described["machine"] |= {"measured": {**machine.measured}, **energy}
    if machine.uses_zeros:
        described["machine"]["zeros"] = _taken(work, zeros)
    if not machine.needs_shapes:
        sums["update"].append(machine.price(work.phase("update")))  # which is no layer's
    totals = described["totals"]
    totals["on_machine"] = {"inference": add_up(sums["forward"]).to_json()}
    if "training" in totals:
        every = [price for prices in sums.values() for price in prices]
        totals["on_machine"]["training"] = add_up(every).to_json()


def _taken(work: Work, zeros: Zeros | None) -> dict[str, Any]:
    """Return where zeros are from, and which layers are taken to have none."""
    named = [layer.name for layer in work.layers if layer.macs("forward")]
    dense = [name for name in named if zeros is None or zeros.of(name) is None]
    return {"source": zeros.source if zeros else None, "without": dense}
