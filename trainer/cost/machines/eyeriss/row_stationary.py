"""Row stationary, the dataflow of Eyeriss: traffic, latency and energy of a convolution."""

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
_LONGEST_RUN = 31
_PAIRS = 3  # pairs of a run of 5 bit and a level of 16 bit in a word of 64 bit, with a bit to spare


class MapZeros(NamedTuple):
    """Shares of zeros, 0 to 1, in a layer's input and in its output after ReLU, without padding."""

    input: float
    output: float


class RowStationaryEstimate(NamedTuple):
    """What a layer does on a chip. latency_seconds has the traffic of DRAM overlapped with the
    work; total_seconds has feature maps moved while the array waits, as the chip does it.
    Transfers and accesses are words."""

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
    """Return the expected words of 16 bit of `planes` run-length coded planes of `values` each.

    Zeros are taken as independent. A pair covers a run of up to 31 zeros and the value after it,
    zero or not: (1 - z^32) / (1 - z) values on average. The pair that a plane ends in is begun
    whether or not it is filled, and a word of three pairs is one pair short of full on average,
    as planes are fetched one by one and begin with a word of their own. Within 1% of a real coder,
    and 6% above it where 99% of a small plane are zeros.
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
    """Estimate a layer with the given mapping, or the best. UserError if the mapping does not fit.

    With `zeros`, feature maps are run-length coded in DRAM wherever this makes them smaller (the
    chip leaves the first layer's input alone); coded planes include the padding.
    """
    mapping = search(shape, chip) if mapping is None else mapping
    work = folded(shape, chip)
    if wrong := misfit(work, chip, mapping):
        raise UserError(f"{mapping} needs {wrong}: take a smaller one, or that of search()")
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


def energy(estimate: RowStationaryEstimate, costs: Costs | None = None) -> Energy:
    """Price an estimate, with the costs of ISCA 2016 where none are given."""
    return (costs or Costs()).price(
        estimate.macs,
        estimate.register_file_accesses,
        estimate.array_transfers,
        estimate.global_buffer_bytes / estimate.word_bytes,
        estimate.dram_bytes / estimate.word_bytes,
    )


def _map_words(shape: ConvShape, chip: Chip, counts: Counts, zeros: MapZeros | None) -> int:
    """Return the words of inputs and outputs in DRAM, coded where that pays."""
    if zeros is None:
        return counts.dram_inputs + counts.dram_outputs
    for name, share in zip(zeros._fields, zeros, strict=True):
        if not 0 <= share <= 1:
            raise UserError(f"{name} share of zeros {share}: give a number from 0 to 1")
    work = folded(shape, chip)
    plane, out = work.rows * work.columns, work.e * work.f
    padded = 1 - (1 - zeros.input) * min(1.0, shape.h * shape.w / (shape.rows * shape.columns))
    ratios = (coded_words(plane, padded) / plane, coded_words(out, zeros.output) / out)
    dense = (counts.dram_inputs, counts.dram_outputs)
    return round(sum(words * min(1.0, ratio) for words, ratio in zip(dense, ratios, strict=True)))
