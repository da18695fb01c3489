"""A machine of which only its speed and its power are known: time is a lower bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ....autograd.ledger import Cost
from ..price import Price
from ..reader import Table
from .machine import RATE, Fields, Machine


class Speed(NamedTuple):
    """MACs a second at the peak, and the power there."""

    macs_per_second: float
    watts: float


@dataclass(frozen=True, kw_only=True)
class Throughput(Machine):
    """A machine that does MACs at its peak and nothing else."""

    throughput: Speed

    kind = "throughput"
    fields: ClassVar[Fields] = {"throughput": Table(Speed, macs_per_second=RATE, watts=RATE)}
    is_linear = True

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the time of MACs at the peak, and the energy in that time."""
        seconds = cost.macs / self.throughput.macs_per_second
        return Price(seconds * self.throughput.watts, latency_seconds=seconds)

    @property
    def peak(self) -> float:
        """The most MACs a second."""
        return self.throughput.macs_per_second
