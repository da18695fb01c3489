"""A machine with known peak speed and power alone: its times are lower bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ....autograd.ledger import Cost
from ..price import Price
from ..reader import Table
from .machine import RATE, Fields, Machine


class Speed(NamedTuple):
    """MACs per second at peak, and the power in watts at that speed."""

    macs_per_second: float
    watts: float


@dataclass(frozen=True, kw_only=True)
class Throughput(Machine):
    """A machine that always runs at its peak; other operations and memory cost nothing."""

    throughput: Speed

    kind = "throughput"
    fields: ClassVar[Fields] = {"throughput": Table(Speed, macs_per_second=RATE, watts=RATE)}
    is_linear = True

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the seconds of the MACs at peak speed, and the joules spent in that time."""
        seconds = cost.macs / self.throughput.macs_per_second
        return Price(seconds * self.throughput.watts, latency_seconds=seconds)

    @property
    def peak(self) -> float:
        """The most MACs per second."""
        return self.throughput.macs_per_second
