"""A row-stationary machine such as Eyeriss: each pass in its best mapping.

The model is that of Chen et al., JSSC 2017 and ISCA 2016: see `mapping.py` and `row_stationary.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from ....errors import UserError
from ...price import JOULES, MACS, Price
from ...reader import Number, Optional, Table, Text
from ...roofline import Bandwidth
from ...sparsity import LayerZeros
from ...workload import LayerShape, LayerWork
from ..machine import ENERGY, MOST, RATE, SIZE, Fields, LayerMachine
from .mapping import Chip, Costs, Mapping, search
from .row_stationary import ConvShape, MapZeros, RowStationaryEstimate, energy, estimate, passes

_SIZES = [name for name in Chip._fields if name != "fewest_strips" and not name.endswith("_hz")]
CHIP = Table(
    Chip,
    **{
        **dict.fromkeys(_SIZES, SIZE),
        "filter_bytes": Number(0, MOST, whole=True),
        "clock_hz": RATE,
        "link_hz": RATE,
    },
)


@dataclass(frozen=True, kw_only=True)
class RowStationary(LayerMachine):
    """A chip like Eyeriss. With `unit` "mac", energies are relative to that of a MAC, otherwise
    picojoules."""

    chip: Chip
    energy_pj: Costs
    unit: str = ""

    kind = "row-stationary"
    fields: ClassVar[Fields] = {
        "unit": Optional(Text(("mac",)), ""),
        "chip": CHIP,
        "energy_pj": Table(Costs, **dict.fromkeys(Costs._fields, ENERGY)),
    }
    uses_zeros = True

    def price_products(self, layer: LayerWork, phase: str, zeros: LayerZeros | None) -> Price:
        """Return the price of a pass: energy by level, seconds, cycles, bytes and active PEs.

        Each shape runs in its best mapping. With `zeros`, images are run-length coded in DRAM where
        that makes them smaller. UserError where strides of rows and columns differ, and where no
        mapping fits the chip.
        """
        coded = zeros and _zeros(zeros, phase)
        try:
            estimates = [_best(passes(_shape(s))[phase], self.chip, coded) for s in layer.shapes]
        except UserError as error:
            raise UserError(f"{layer.name}, {phase}: {error}") from error
        by_shape = [energy(one, self.energy_pj)._asdict() for one in estimates]
        levels = {name: sum(one[name] for one in by_shape) for name in Costs._fields}
        scale = 1.0 if self.unit == "mac" else 1e-12
        macs = sum(one.macs for one in estimates)
        seconds = sum(one.latency_seconds for one in estimates)
        return Price(
            scale * sum(levels.values()),
            {name: scale * value for name, value in levels.items()},
            MACS if self.unit == "mac" else JOULES,
            latency_seconds=seconds,
            cycles=sum(one.latency_cycles for one in estimates),
            global_buffer_bytes=sum(one.global_buffer_bytes for one in estimates),
            dram_bytes=sum(one.dram_bytes for one in estimates),
            active_pes=sum(one.active_pes * one.macs for one in estimates) / macs,
            utilization=macs / (self.units * seconds * self.chip.clock_hz),
        )

    @property
    def units(self) -> int:
        """The number of PEs."""
        return self.chip.rows * self.chip.columns

    @property
    def storage_bytes(self) -> int:
        """The bytes of all scratchpads and of the global buffer."""
        chip = self.chip
        words = chip.filter_words + chip.input_words + chip.psum_words
        return self.units * words * chip.word_bytes + chip.buffer_bytes + chip.filter_bytes

    @property
    def peak(self) -> float:
        """The most MACs per second: one per PE and cycle."""
        return self.units * self.chip.clock_hz

    @property
    def bandwidth(self) -> Bandwidth:
        """Bytes per second of the link to DRAM."""
        return Bandwidth(self.chip.link_hz * self.chip.link_bytes, "DRAM")

    def traffic_basis(self, coded: bool) -> str:
        """Return how DRAM traffic is counted."""
        return f"of the best mapping, with{'' if coded else 'out'} coding of zeros"


# Cached: a model repeats its shapes, and each search tries very many mappings.
@cache
def _best(shape: ConvShape, chip: Chip, zeros: MapZeros | None) -> RowStationaryEstimate:
    return estimate(shape, chip, _mapping(shape, chip), zeros)


@cache
def _mapping(shape: ConvShape, chip: Chip) -> Mapping:
    return search(shape, chip)


def _zeros(zeros: LayerZeros, phase: str) -> MapZeros:
    """Return the zeros in the operand that a pass maps as its images, and in its results; gradients
    of weights have none."""
    return {
        "forward": MapZeros(zeros.input, zeros.output),
        "backward_data": MapZeros(zeros.gradient, zeros.input_gradient),
        "backward_weights": MapZeros(zeros.input, 0.0),
    }[phase]


def _shape(s: LayerShape) -> ConvShape:
    if s.U[0] != s.U[1]:
        raise UserError(f"stride: expected the same for rows and columns, got {s.U[0]}, {s.U[1]}")
    return ConvShape(s.N, s.M, s.C, s.H, s.W, s.R, s.S, s.E, s.F, s.U[0], s.groups)
