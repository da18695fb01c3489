"""Layers on a row-stationary machine: each pass in its best mapping, traffic, time and energy."""

from __future__ import annotations

from collections.abc import Mapping as Table
from functools import cache
from typing import Any

from ....errors import UserError
from ... import workload as work
from ...phases import PASSES
from ...sparsity import LayerZeros
from .mapping import Chip, Costs, Mapping, search
from .row_stationary import Estimate, Shape, Zeros, energy, estimate, passes

CHIP = tuple(name for name in Chip._fields if name != "fewest_strips")
COSTS = Costs._fields


def chip_of(numbers: Table[str, float]) -> Chip:
    """Return the chip of a machine's numbers."""
    fields: dict[str, Any] = {
        name: numbers[name] if name.endswith("_hz") else int(numbers[name]) for name in CHIP
    }
    return Chip(**fields)


def price(
    numbers: Table[str, float], unit: str, layer: work.Layer, phase: str,
    zeros: LayerZeros | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return what a pass of a layer takes, nothing where it has no products: each shape in its best
    mapping. With `zeros` images are run-length coded in DRAM where that pays. Energy is in joules,
    or in that of a MAC where `unit` is "mac". UserError where rows and columns have different
    strides, and where nothing fits."""
    if phase not in PASSES or not layer.macs(phase):
        return {}
    chip = chip_of(numbers)
    costs = Costs(**{name: numbers[name] for name in COSTS})
    coded = zeros and _zeros(zeros, phase)
    try:
        found = [_best(passes(_shape(s))[phase], chip, coded) for s in layer.shapes]
    except UserError as error:
        raise UserError(f"{layer.name}, {phase}: {error}") from error
    levels = [energy(one, costs)._asdict() for one in found]
    priced = {f"energy_{name}": sum(one[name] for one in levels) for name in COSTS}
    priced = {"energy": sum(priced.values()), **priced}
    scale = 1.0 if unit == "mac" else 1e-12
    macs, seconds = sum(one.macs for one in found), sum(one.latency_seconds for one in found)
    return {
        **{f"{name}_{unit or 'joule'}s": scale * value for name, value in priced.items()},
        "latency_seconds": seconds,
        "cycles": sum(one.latency_cycles for one in found),
        "global_buffer_bytes": sum(one.global_buffer_bytes for one in found),
        "dram_bytes": sum(one.dram_bytes for one in found),
        "active_pes": sum(one.active_pes * one.macs for one in found) / macs,
        "utilization": macs / (chip.rows * chip.columns * seconds * chip.clock_hz),
    }


@cache
def _best(shape: Shape, chip: Chip, zeros: Zeros | None) -> Estimate:
    return estimate(shape, chip, _mapping(shape, chip), zeros)


@cache
def _mapping(shape: Shape, chip: Chip) -> Mapping:
    return search(shape, chip)


def _zeros(zeros: LayerZeros, phase: str) -> Zeros:
    """Return the zeros of what a pass takes for its images, and of its results: gradients of
    weights have none."""
    return {
        "forward": Zeros(zeros.input, zeros.output),
        "backward_data": Zeros(zeros.gradient, zeros.input_gradient),
        "backward_weights": Zeros(zeros.input, 0.0),
    }[phase]


def _shape(s: work.Shape) -> Shape:
    if s.U[0] != s.U[1]:
        raise UserError(f"strides {s.U[0]} and {s.U[1]}: the mapping needs them equal")
    return Shape(s.N, s.M, s.C, s.H, s.W, s.R, s.S, s.E, s.F, s.U[0], s.groups)
