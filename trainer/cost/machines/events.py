"""An event-driven machine, such as a spiking chip: it works only where neither factor of a MAC is
zero; no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ....autograd.ledger import Cost
from ..phases import PASSES
from ..price import Price
from ..reader import Table
from ..sparsity import LayerZeros
from ..workload import LayerWork
from .machine import ENERGY, Fields, Machine


class EventEnergy(NamedTuple):
    """Picojoules per event."""

    event: float


@dataclass(frozen=True, kw_only=True)
class Events(Machine):
    """A machine that spends energy on events alone, which are MACs without a zero factor."""

    energy_pj: EventEnergy

    kind = "events"
    fields: ClassVar[Fields] = {"energy_pj": Table(EventEnergy, event=ENERGY)}
    uses_zeros = True
    without_zeros = "every MAC is an event: an upper bound"

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the joules of `events`, by default of all MACs: an upper bound."""
        count = cost.macs if events is None else events
        return Price(1e-12 * self.energy_pj.event * count, events=count)

    def price_layer(
        self, layer: LayerWork, phase: str, zeros: LayerZeros | None = None
    ) -> Price | None:
        """Return the price of a pass with MACs, None of any other; without `zeros` every MAC is an
        event."""
        macs = layer.macs(phase)
        if phase not in PASSES or not macs:
            return None
        share = zeros.nonzero.get(phase, 1.0) if zeros else 1.0
        return self.price(layer.costs[phase], macs * share)
