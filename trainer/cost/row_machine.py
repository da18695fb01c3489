"""Layers on a row-stationary machine: each pass in its best mapping, traffic, time and energy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ..errors import UserError
from . import work
from .row_mapping import Chip, Costs
from .row_stationary import Estimate, Shape, energy, estimate, passes

CHIP = tuple(name for name in Chip._fields if name != "fewest_strips")
COSTS = Costs._fields


def chip_of(numbers: Mapping[str, float]) -> Chip:
    """Return the chip of a machine's numbers."""
    fields: dict[str, Any] = {
        name: numbers[name] if name.endswith("_hz") else int(numbers[name]) for name in CHIP
    }
    return Chip(**fields)


def price(
    numbers: Mapping[str, float], unit: str, layer: work.Layer, phase: str
) -> dict[str, float]:
    """Return what a pass of a layer takes, nothing where it has no products: each shape in its best
    mapping, images without zeros. Energy is in joules, or in that of a MAC where `unit` is "mac".
    UserError where rows and columns have different strides."""
    if phase not in work.PASSES or not layer.macs(phase):
        return {}
    chip = chip_of(numbers)
    costs = Costs(**{name: numbers[name] for name in COSTS})
    found = [_best(passes(_shape(layer.name, shape))[phase], chip) for shape in layer.shapes]
    total = sum(energy(one, costs).total for one in found)
    macs, seconds = sum(one.macs for one in found), sum(one.latency_seconds for one in found)
    return {
        **({"energy_macs": total} if unit == "mac" else {"energy_joules": 1e-12 * total}),
        "latency_seconds": seconds,
        "cycles": sum(one.latency_cycles for one in found),
        "global_buffer_bytes": sum(one.global_buffer_bytes for one in found),
        "dram_bytes": sum(one.dram_bytes for one in found),
        "active_pes": sum(one.active_pes * one.macs for one in found) / macs,
        "utilization": macs / (chip.rows * chip.columns * seconds * chip.clock_hz),
    }


@cache
def _best(shape: Shape, chip: Chip) -> Estimate:
    return estimate(shape, chip)


def _shape(layer: str, s: work.Shape) -> Shape:
    if s.U[0] != s.U[1]:
        raise UserError(f"{layer}: strides {s.U[0]} and {s.U[1]}: the mapping needs them equal")
    return Shape(s.N, s.M, s.C, s.H, s.W, s.R, s.S, s.E, s.F, s.U[0], s.groups)
