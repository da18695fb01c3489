"""A systolic array: cycles, traffic of its memories, time and energy of each pass.

Cycles and traffic are those of `array.py`; energies per MAC and word come from the machine's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...price import Price
from ...reader import Table, Text
from ...roofline import Bandwidth, compulsory_words
from ...sparsity import LayerZeros
from ...workload import LayerWork
from ..machine import ENERGY, RATE, SIZE, Fields, LayerMachine
from .array import DATAFLOWS, estimate, gemms, stalled_cycles


class SystolicArray(NamedTuple):
    """`rows` x `columns` multipliers, and the words that their memories move per cycle."""

    rows: int
    columns: int
    word_bytes: int
    clock_hz: float
    sram_words: float


class SystolicEnergy(NamedTuple):
    """Picojoules of a MAC, of a word between the array and its memories, and of a DRAM word."""

    mac: float
    sram_word: float
    dram_word: float


@dataclass(frozen=True, kw_only=True)
class Systolic(LayerMachine):
    """An array of multipliers with one `dataflow`: "os", "ws" or "is"."""

    dataflow: str
    array: SystolicArray
    energy_pj: SystolicEnergy

    kind = "systolic"
    fields: ClassVar[Fields] = {
        "dataflow": Text(DATAFLOWS),
        "array": Table(
            SystolicArray, rows=SIZE, columns=SIZE, word_bytes=SIZE, clock_hz=RATE, sram_words=RATE
        ),
        "energy_pj": Table(SystolicEnergy, **dict.fromkeys(SystolicEnergy._fields, ENERGY)),
    }

    def price_products(self, layer: LayerWork, phase: str, zeros: LayerZeros | None) -> Price:
        """Return the price of a pass: joules by level, seconds, cycles and bytes.

        DRAM traffic is compulsory: each operand once. A pass that moves more than `sram_words` per
        cycle stalls. `zeros` do not matter: this machine multiplies them too.
        """
        array, pj = self.array, self.energy_pj
        cycles = macs = sram = dram = 0
        for shape in layer.shapes:
            products = gemms(
                shape.N, shape.M, shape.C, shape.R, shape.S, shape.E, shape.F, shape.groups
            )
            m, k, n, times = products[phase]
            one = estimate(m, k, n, array.rows, array.columns, self.dataflow)
            cycles += times * max(1 + one.cycles, stalled_cycles(one, array.sram_words))
            macs += times * m * k * n
            sram += times * (one.input_reads + one.filter_reads + one.output_writes)
            dram += compulsory_words(shape)
        levels = {
            "mac": 1e-12 * pj.mac * macs,
            "sram": 1e-12 * pj.sram_word * sram,
            "dram": 1e-12 * pj.dram_word * dram,
        }
        return Price(
            sum(levels.values()),
            levels,
            latency_seconds=cycles / array.clock_hz,
            cycles=cycles,
            global_buffer_bytes=sram * array.word_bytes,
            dram_bytes=dram * array.word_bytes,
            active_pes=macs / cycles,
            utilization=macs / (self.units * cycles),
        )

    @property
    def units(self) -> int:
        """The number of multipliers."""
        return self.array.rows * self.array.columns

    @property
    def peak(self) -> float:
        """The most MACs per second: one per unit and cycle."""
        return self.units * self.array.clock_hz

    @property
    def bandwidth(self) -> Bandwidth:
        """Bytes per second of the memories beside the array; that of DRAM is unknown."""
        width = self.array.sram_words * self.array.word_bytes
        return Bandwidth(width * self.array.clock_hz, "global buffer")

    def traffic_basis(self, coded: bool) -> str:
        """Return how DRAM traffic is counted."""
        return "compulsory: each operand once"
