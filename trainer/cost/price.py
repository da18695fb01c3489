"""The price of work on a machine: energy, time and traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

JOULES, MACS = "joules", "macs"  # units of energy; MACS: multiples of the energy of one MAC
RATES = ("active_pes", "utilization")  # means, which do not add up


@dataclass(frozen=True)
class Price:
    """The price of a pass, a layer or a run on a machine; None where the machine does not say.

    `levels` splits `energy`, in `unit`, into arithmetic and the levels of memory. Traffic is in
    bytes, `active_pes` a mean over time, `utilization` from 0 to 1; `events` are MACs without a
    zero factor.
    """

    energy: float | None = None
    levels: Mapping[str, float] = field(default_factory=dict)
    unit: str = JOULES
    latency_seconds: float | None = None
    cycles: int | None = None
    global_buffer_bytes: float | None = None
    dram_bytes: float | None = None
    active_pes: float | None = None
    utilization: float | None = None
    events: float | None = None

    @property
    def joules(self) -> float | None:
        """The energy, where it is known in joules."""
        return self.energy if self.unit == JOULES else None

    @property
    def mac_energies(self) -> float | None:
        """The energy, where it is known in multiples of that of a MAC alone."""
        return self.energy if self.unit == MACS else None

    @property
    def is_known(self) -> bool:
        """Whether energy or time is known and not 0."""
        return bool(self.energy or self.latency_seconds)

    def scaled(self, scale: Callable[[float], float]) -> Price:
        """Return the price with every amount scaled."""
        amounts = {name: value for name, value in self._amounts() if value is not None}
        scaled = {name: scale(value) for name, value in amounts.items()}
        levels = {name: scale(value) for name, value in self.levels.items()}
        return replace(self, **scaled, levels=levels)  # type: ignore[arg-type]

    def _amounts(self) -> Iterable[tuple[str, float | None]]:
        return ((name, getattr(self, name)) for name in AMOUNTS)

    def to_json(self) -> dict[str, Any]:
        """Return the known amounts: `energy_UNIT`, each `energy_LEVEL_UNIT`, then the others."""
        energies = {} if self.energy is None else {f"energy_{self.unit}": self.energy}
        levels = {f"energy_{name}_{self.unit}": value for name, value in self.levels.items()}
        others = {n: v for n, v in self._amounts() if v is not None and n != "energy"}
        return {**energies, **levels, **others}


AMOUNTS = tuple(f.name for f in fields(Price) if f.name not in ("levels", "unit"))


def add_up(prices: Iterable[Price]) -> Price:
    """Return the sum of prices of one machine, without means such as `utilization`. An amount that
    only some prices have is summed over those."""
    every = [*prices]
    sums = {
        name: _sum([getattr(price, name) for price in every])
        for name in AMOUNTS
        if name not in RATES
    }
    names = dict.fromkeys(name for price in every for name in price.levels)
    levels = {name: _sum([price.levels.get(name) for price in every]) or 0 for name in names}
    unit = next((price.unit for price in every if price.energy is not None), JOULES)
    return Price(**sums, levels=levels, unit=unit)  # type: ignore[arg-type]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    # Counts stay exact integers. fsum rounds once, so sums do not depend on the order of layers.
    whole = all(isinstance(value, int) for value in known)
    return sum(known) if whole else math.fsum(known)
