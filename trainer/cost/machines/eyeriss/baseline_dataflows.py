"""Energy of the dataflows that row stationary is compared with, on as many PEs of the same area.

The models follow Chen, Emer, Sze, "Eyeriss", ISCA 2016, sections IV and VI. Operands of MACs and
partial sums are traced through DRAM, buffer, array and registers as in equations (3) and (4): a
level reads an operand each time it passes it on, a level without reuse is bypassed, and an
accumulation costs a read and a write except between PEs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .mapping import Costs, Energy
from .shape import ConvShape, ceil_div, fold

# Bytes of buffer that fit in the area of one byte of registers. ISCA 2016, section VI-B: without
# its 256 register files of 512 bytes, a design has "up to 2.6 times" the buffer of 128 KB.
AREA_OF_REGISTERS = 1.6
REGISTER_BYTES = 512


class Moves(NamedTuple):
    """Words that a dataflow reads and writes at each level for a layer."""

    register_file: float
    array: float
    buffer: float
    dram: float


def baseline_dataflows(
    shape: ConvShape, pes: int = 256, word_bytes: int = 2, costs: Costs | None = None
) -> dict[str, Energy]:
    """Return the energy of a layer by dataflow (WS, OSA, OSB, OSC, NLR), each in its best
    arrangement on `pes` PEs; without `costs` relative to a 16-bit MAC, by ISCA 2016, Table IV.

    All have the area of 512 bytes of registers per PE and as much buffer again; a dataflow that
    needs fewer registers gets more buffer. WS is absent where the buffer cannot hold the partial
    sums of a single filter over all images.
    """
    costs = costs or Costs()
    energies = {}
    for name, (model, registers) in _MODELS.items():
        spare = REGISTER_BYTES - registers * word_bytes
        words = int(pes * (REGISTER_BYTES + spare * AREA_OF_REGISTERS)) // word_bytes
        options = [costs.price(shape.macs, *moves) for moves in model(shape, pes, words)]
        if options:
            energies[name] = min(options, key=lambda option: option.total)
    return energies


def weight_stationary(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """Yield the traffic of WS for each split of the PEs into g filters of h channels.

    A weight stays in its PE for all n * e * f outputs; r * s PEs hold a plane of a filter. An input
    is broadcast to its planes; partial sums move from PE to PE and wait in the buffer, m filters at
    a time, for all images. Inputs are fetched from DRAM for every g filters, or for every m where
    the buffer also holds all images of h channels.
    """
    plane = fold(shape, pes, max(1, pes // min(shape.r, pes)))
    area, pixels = plane.r * plane.s, plane.n * plane.e * plane.f
    words = plane.n * plane.rows * plane.columns
    for g, h in _pairs(pes // area, plane.filters, plane.channels):
        sums, inputs = buffer // pixels, h * words
        if sums < g:
            continue
        resident = (buffer - inputs) // pixels // g * g
        reads = words * plane.c * ceil_div(plane.filters, g)
        fetched = words * plane.c * ceil_div(plane.filters, resident) if resident > 0 else reads
        hops = 1 - 1 / (area * h)
        yield Moves(
            register_file=shape.macs,
            array=shape.macs * (1 + hops),
            buffer=reads + 2 * shape.outputs * (ceil_div(plane.channels, h) - 1),
            dram=fetched + shape.weights + shape.outputs,
        )


def output_stationary_a(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """Yield the traffic of OSA, many pixels of one output channel (SOC-MOP), for each tile.

    A tile of output pixels stays in the array and a weight is broadcast to it. Inputs shift between
    PEs and wait in registers: reuse along rows and columns, none between filters.
    """
    for high, wide in _pairs(pes, shape.e, shape.f):
        tiles = shape.n * ceil_div(shape.e, high) * ceil_div(shape.f, wide)
        region = _span(high, shape.r, shape.stride) * _span(wide, shape.s, shape.stride)
        yield Moves(
            register_file=3 * shape.macs,
            array=2 * shape.macs,
            buffer=tiles * (region * shape.channels * shape.m + shape.weights),
            dram=_streamed(shape, buffer),
        )


def output_stationary_b(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """Yield the traffic of OSB, pixels of a row in several output channels (MOC-MOP), for each
    number g of filters.

    Inputs are reused along the row and between g filters; a weight is broadcast to the pixels of
    its filter.
    """
    for g, wide in _pairs(pes, shape.filters, shape.f):
        tiles = shape.n * shape.e * ceil_div(shape.f, wide)
        region = shape.r * _span(wide, shape.s, shape.stride)
        yield Moves(
            register_file=3 * shape.macs,
            array=2 * shape.macs,
            buffer=tiles * (region * shape.c * ceil_div(shape.filters, g) + shape.weights),
            dram=_streamed(shape, buffer),
        )


def output_stationary_c(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """Yield the traffic of OSC, one pixel in many output channels (MOC-SOP): an input is broadcast
    to g filters, and every MAC reads its weight from the buffer."""
    g = min(pes, shape.filters)
    reads = shape.macs // shape.filters * ceil_div(shape.filters, g)
    yield Moves(2 * shape.macs, shape.macs, shape.macs + reads, _streamed(shape, buffer))


def no_local_reuse(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """Yield the traffic of NLR, PEs without registers, for each split into h groups of g.

    A group shares an input between g filters, and the groups add the products of h channels.
    Weights and partial sums stay in the buffer.
    """
    for g, h in _pairs(pes, shape.filters, shape.channels):
        reads = shape.macs // shape.filters * ceil_div(shape.filters, g)
        rounds = ceil_div(shape.channels, h) * shape.r * shape.s
        yield Moves(
            register_file=0,
            array=shape.macs * (2 - 1 / h),
            buffer=shape.macs + reads + 2 * shape.outputs * (rounds - 1),
            dram=_streamed(shape, buffer),
        )


# Each model with the words of registers per PE: a weight or a partial sum and, where inputs shift,
# a row of up to 12 of them.
_MODELS: dict[str, tuple[Callable[[ConvShape, int, int], Iterator[Moves]], int]] = {
    "WS": (weight_stationary, 1),
    "OSA": (output_stationary_a, 13),
    "OSB": (output_stationary_b, 13),
    "OSC": (output_stationary_c, 1),
    "NLR": (no_local_reuse, 0),
}


def _pairs(room: int, first: int, second: int) -> Iterator[tuple[int, int]]:
    """Yield the a x b that fill `room` PEs, with a at most `first` and b at most `second`."""
    for a in range(1, min(room, first) + 1):
        yield a, min(room // a, second)


def _span(outputs: int, taps: int, stride: int) -> int:
    """Return the inputs along one axis that so many outputs read."""
    return (outputs - 1) * stride + taps


def _streamed(shape: ConvShape, buffer: int) -> int:
    """Return the least DRAM words where partial sums never leave the chip: either strips of images
    stay in the buffer while the weights stream past, or filters stay while the images do."""
    row = shape.channels * shape.columns
    images = shape.n * shape.rows * row * shape.groups
    filter_words = shape.channels * shape.r * shape.s
    ways = [images + shape.weights * shape.n * shape.e]
    if at_once := buffer // (shape.rows * row):
        ways.append(images + shape.weights * ceil_div(shape.n, at_once))
    if at_once := buffer // filter_words:
        ways.append(shape.weights + images * ceil_div(shape.filters, at_once))
    for parts in range(2, shape.e + 1):
        high = ceil_div(shape.e, parts)
        touched = (shape.e - parts) * shape.stride + parts * shape.r
        if _span(high, shape.r, shape.stride) * row <= buffer:
            strips = shape.n * touched * row * shape.groups
            ways.append(strips + shape.weights * shape.n * parts)
            break
    return min(ways) + shape.outputs
