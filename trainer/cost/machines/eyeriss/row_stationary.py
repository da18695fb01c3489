"""Row stationary, the dataflow of Eyeriss: traffic, latency and energy of a convolution.

Sources: Chen, Krishna, Emer, Sze, "Eyeriss", JSSC 52(1), 2017, which describes the chip, and Chen,
Emer, Sze, "Eyeriss", ISCA 2016, whose Table IV has the energies. The tests compare with the chip's
measurements in JSSC 2017, Table V.
"""

from __future__ import annotations

from typing import NamedTuple

from ....errors import UserError
from .mapping import (
    EYERISS,
    ISCA2016,
    Chip,
    Costs,
    Counts,
    Energy,
    Mapping,
    count,
    folded,
    misfit,
    search,
)
from .shape import ConvShape, passes

__all__ = [
    "EYERISS", "ISCA2016", "Chip", "ConvShape", "Costs", "Energy", "MapZeros", "Mapping",
    "RowStationaryEstimate", "coded_words", "energy", "estimate", "passes", "search",
]  # fmt: skip
# Run-length coding (JSSC 2017): 64 bits hold three pairs of a 5-bit run and a 16-bit
# level, and one bit that marks the last word.
_LONGEST_RUN = 31
_PAIRS = 3


class MapZeros(NamedTuple):
    """Shares of zeros, 0 to 1, in a layer's input and in its output after ReLU, without padding."""

    input: float
    output: float


class RowStationaryEstimate(NamedTuple):
    """The work of a layer on a chip. `latency_seconds` overlaps DRAM traffic with computing;
    `total_seconds` moves feature maps while the array waits, as the chip does; `bound_seconds` is
    one MAC per active PE and cycle. Transfers and accesses are words."""

    mapping: Mapping
    active_pes: int
    passes: int
    latency_cycles: int
    latency_seconds: float
    bound_seconds: float
    total_seconds: float
    global_buffer_bytes: int
    dram_bytes: int
    register_file_accesses: int
    array_transfers: int
    macs: int
    word_bytes: int


def coded_words(values: int, zeros: float, planes: int = 1) -> float:
    """Return the expected 16-bit words of `planes` run-length coded planes of `values` each
    (JSSC 2017), for a share of `zeros` from 0 to 1.

    Zeros are assumed to be independent. A pair covers a run of up to 31 zeros and the value after
    it, zero or not: (1 - z^32) / (1 - z) values on average. The last pair of a plane counts even if
    its run is cut short. Planes are fetched one by one and start in a new word of three pairs, so
    the last word lacks one pair on average. The result is within 1% of a real coder, and 6% above
    it for small planes with 99% zeros.
    """
    covered = sum(zeros**run for run in range(_LONGEST_RUN + 1))
    pairs = 1 + (values - 1) / covered
    return planes * (pairs + 1) / _PAIRS * 4


def estimate(
    shape: ConvShape,
    chip: Chip = EYERISS,
    mapping: Mapping | None = None,
    zeros: MapZeros | None = None,
) -> RowStationaryEstimate:
    """Estimate a layer in a mapping, by default the best one: words, cycles and seconds.

    With `zeros`, feature maps are run-length coded in DRAM wherever this makes them smaller; coded
    planes include the padding. (The chip never codes the first layer's input.) UserError for a
    mapping that does not fit.
    """
    work, mapping = folded(shape, chip), _fitting(shape, chip, mapping)
    counts = count(shape, chip, mapping)
    maps = _map_words(shape, chip, counts, zeros) * chip.word_bytes
    dram = maps + counts.dram_weights * chip.word_bytes
    link = chip.link_hz * chip.link_bytes
    active = work.r * mapping.e * mapping.r * mapping.t
    busy = counts.cycles / chip.clock_hz
    return RowStationaryEstimate(
        mapping=mapping,
        active_pes=active,
        passes=counts.passes,
        latency_cycles=counts.cycles,
        latency_seconds=max(busy, dram / link),
        bound_seconds=shape.macs / active / chip.clock_hz,
        total_seconds=max(busy, (dram - maps) / link) + maps / link,
        global_buffer_bytes=counts.buffer * chip.word_bytes,
        dram_bytes=dram,
        register_file_accesses=counts.register_file,
        array_transfers=counts.array,
        macs=counts.macs,
        word_bytes=chip.word_bytes,
    )


def _fitting(shape: ConvShape, chip: Chip, mapping: Mapping | None) -> Mapping:
    """Return the mapping, the best one for None. UserError for one that does not fit."""
    if mapping is None:
        return search(shape, chip)
    if wrong := misfit(folded(shape, chip), chip, mapping):
        raise UserError(f"{mapping}: {wrong}; search() finds one that fits")
    return mapping


def energy(estimate: RowStationaryEstimate, costs: Costs | None = None) -> Energy:
    """Return the energy of an estimate by level; without `costs` relative to a 16-bit MAC, by ISCA
    2016, Table IV."""
    return (costs or Costs()).price(
        estimate.macs,
        estimate.register_file_accesses,
        estimate.array_transfers,
        estimate.global_buffer_bytes / estimate.word_bytes,
        estimate.dram_bytes / estimate.word_bytes,
    )


def _map_words(shape: ConvShape, chip: Chip, counts: Counts, zeros: MapZeros | None) -> int:
    """Return the DRAM words of inputs and outputs, coded where that makes them fewer."""
    if zeros is None:
        return counts.dram_inputs + counts.dram_outputs
    for name, share in zip(zeros._fields, zeros, strict=True):
        if not 0 <= share <= 1:
            raise UserError(f"zeros.{name}: expected a share from 0 to 1, got {share}")
    work = folded(shape, chip)
    plane, out = work.rows * work.columns, work.e * work.f
    padded = 1 - (1 - zeros.input) * min(1.0, shape.h * shape.w / (shape.rows * shape.columns))
    ratios = (coded_words(plane, padded) / plane, coded_words(out, zeros.output) / out)
    dense = (counts.dram_inputs, counts.dram_outputs)
    return round(sum(words * min(1.0, ratio) for words, ratio in zip(dense, ratios, strict=True)))
