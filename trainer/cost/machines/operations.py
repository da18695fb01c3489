"""A price for each operation and for each byte moved; no time.

Energy is the sum over all operations and bytes of what each takes, as in the tables of Horowitz
(Computing's Energy Problem, ISSCC 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ....autograd.ledger import Cost
from ..price import Price
from ..reader import Table
from ..workload import moved
from .machine import ENERGY, Fields, Machine


class OperationEnergy(NamedTuple):
    """Picojoules per operation, and per byte that a call reads or writes."""

    mac: float
    add: float
    mul: float
    div: float
    cmp: float
    exp: float
    dram_byte: float


@dataclass(frozen=True, kw_only=True)
class Operations(Machine):
    """A machine with known energies per operation and per byte of memory, and no speed."""

    energy_pj: OperationEnergy

    kind = "prices"
    fields: ClassVar[Fields] = {
        "energy_pj": Table(OperationEnergy, **dict.fromkeys(OperationEnergy._fields, ENERGY))
    }
    is_linear = True

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the joules of the operations ("arithmetic") and of the operands and results that
        every call moves ("memory"), as if no cache kept them between calls."""
        pj = self.energy_pj
        others = (
            pj.add * cost.add, pj.mul * cost.mul, pj.div * cost.div, pj.cmp * cost.cmp,
            pj.exp * cost.exp,
        )  # fmt: skip
        arithmetic = pj.mac * cost.macs + math.fsum(others)
        dram_bytes = moved(cost)
        memory = pj.dram_byte * dram_bytes
        levels = {"arithmetic": 1e-12 * arithmetic, "memory": 1e-12 * memory}
        return Price(1e-12 * (arithmetic + memory), levels, dram_bytes=dram_bytes)
