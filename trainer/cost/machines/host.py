"""This host as a machine: its measured roofs, and its power where it can be read."""

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
    """A machine with measured roofs, and `watts` of the processor packages, None if unknown."""

    roofs: Roofs
    watts: float | None = None

    kind = HOST
    is_measured = True
    time_note = (
        "times are those of calls one by one, on operands in memory: fused calls, caches and "
        "Winograd's method can beat them"
    )

    @property
    def has_energy(self) -> bool:
        """Whether the power is known, and with it the energy."""
        return self.watts is not None

    @property
    def measured(self) -> Mapping[str, float]:
        """The measured numbers by name: gflops, gbytes, and watts if known."""
        power = {} if self.watts is None else {"watts": self.watts}
        return {"gflops": self.roofs.gflops, "gbytes": self.roofs.gbytes, **power}

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the roofline bound (Williams, Waterman and Patterson 2009): the larger of the time
        of the MACs at peak speed and that of the bytes at full bandwidth. It is a lower bound for
        calls whose operands come from memory; caches can beat it."""
        seconds, _ = self.roofs.seconds(cost)
        dram_bytes = float(moved(cost))
        energy = None if self.watts is None else seconds * self.watts
        return Price(energy, latency_seconds=seconds, dram_bytes=dram_bytes)

    @property
    def peak(self) -> float:
        """The most MACs per second, in one thread."""
        return self.roofs.roofline.macs_per_second

    @property
    def bandwidth(self) -> Bandwidth:
        """Bytes per second of a copy, read and written together."""
        return Bandwidth(self.roofs.roofline.bytes_per_second)
