"""This host as a machine: its two roofs, and its power where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....autograd.ledger import Cost
from ..price import Price
from ..roofline import Bandwidth, Roofs
from ..workload import moved
from .machine import HOST, Machine


@dataclass(frozen=True, kw_only=True)
class Host(Machine):
    """A machine whose roofs were measured, and `watts`, if they could be read."""

    roofs: Roofs
    watts: float | None = None

    kind = HOST
    is_measured = True

    @property
    def has_energy(self) -> bool:
        """Whether the power is known."""
        return self.watts is not None

    @property
    def measured(self) -> Mapping[str, float]:
        """What was measured, by name."""
        power = {} if self.watts is None else {"watts": self.watts}
        return {**self.roofs._asdict(), **power}

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the larger of the times that MACs take at the peak and bytes at the bandwidth
        (Williams, Waterman and Patterson 2009): a lower bound, for a call that shares nothing with
        others through caches."""
        seconds, _ = self.roofs.seconds(cost)
        dram_bytes = float(moved(cost))
        energy = None if self.watts is None else seconds * self.watts
        return Price(energy, latency_seconds=seconds, dram_bytes=dram_bytes)

    @property
    def peak(self) -> float:
        """The most MACs a second, in one thread."""
        return self.roofs.roofline.macs_per_second

    @property
    def bandwidth(self) -> Bandwidth:
        """Bytes a second of a copy."""
        return Bandwidth(self.roofs.roofline.bytes_per_second)
