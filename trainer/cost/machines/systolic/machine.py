"""Layers on a systolic array: cycles, traffic of its memories, time and energy of each pass."""

from __future__ import annotations

from collections.abc import Mapping

from ...phases import PASSES
from ...roofline import compulsory_words
from ...workload import Layer
from .array import estimate, gemms, stalled_cycles


def price(
    numbers: Mapping[str, float], dataflow: str, layer: Layer, phase: str
) -> dict[str, float]:
    """Return what a pass of a layer takes on an array, nothing where it has no products. DRAM
    traffic is compulsory: each operand once; energy is that of MACs, of the words between the array
    and its memories, and of DRAM. A pass that moves more words a cycle than `sram_words` stalls."""
    if phase not in PASSES or not layer.macs(phase):
        return {}
    rows, columns, word = (int(numbers[k]) for k in ("rows", "columns", "word_bytes"))
    cycles = macs = sram = dram = 0
    for shape in layer.shapes:
        products = gemms(
            shape.N, shape.M, shape.C, shape.R, shape.S, shape.E, shape.F, shape.groups
        )
        m, k, n, times = products[phase]
        found = estimate(m, k, n, rows, columns, dataflow)
        cycles += times * max(1 + found.cycles, stalled_cycles(found, numbers["sram_words"]))
        macs += times * m * k * n
        sram += times * (found.input_reads + found.filter_reads + found.output_writes)
        dram += compulsory_words(shape)
    joules = {
        "energy_mac_joules": 1e-12 * numbers["mac"] * macs,
        "energy_sram_joules": 1e-12 * numbers["sram_word"] * sram,
        "energy_dram_joules": 1e-12 * numbers["dram_word"] * dram,
    }
    return {
        "energy_joules": sum(joules.values()),
        **joules,
        "latency_seconds": cycles / numbers["clock_hz"],
        "cycles": cycles,
        "global_buffer_bytes": sram * word,
        "dram_bytes": dram * word,
        "active_pes": macs / cycles,
        "utilization": macs / (rows * columns * cycles),
    }
