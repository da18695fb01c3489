"""Energy of the dataflows that row stationary is compared with, on as many PEs of the same area.

Models of Chen, Emer, Sze: Eyeriss, ISCA 2016, sections IV and VI. Every operand of a MAC and every
partial sum is followed through DRAM, buffer, array and registers as in equations (3) and (4):
operands are read at each level as often as it hands them on, a level that reuses nothing is passed
by, and accumulation costs a read and a write except between PEs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .mapping import Costs, Energy
from .shape import ConvShape, ceil_div, fold

# Bytes of buffer in the place of one byte of registers: "up to 2.6 times" the 128 KB of buffer,
# where 256 register files of 512 bytes are given up (ISCA 2016, section VI-B).
AREA_OF_REGISTERS = 1.6
REGISTER_BYTES = 512


class Moves(NamedTuple):
    """Words that a dataflow moves at each level."""

    register_file: float
    array: float
    buffer: float
    dram: float


def baseline_dataflows(
    shape: ConvShape, pes: int = 256, word_bytes: int = 2, costs: Costs | None = None
) -> dict[str, Energy]:
    """Return the energy of a layer by dataflow: WS, OSA, OSB, OSC and NLR, each with its best
    arrangement on `pes` PEs. The area is that of 512 bytes of registers for every PE and as much
    buffer; what a dataflow needs less of registers it has more of buffer. WS is missing where the
    buffer cannot hold the partial sums of a single filter over all images."""
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
    """A weight stays in its PE for all n * e * f outputs; r * s PEs hold a plane of a filter, and
    the sets hold g filters of h channels. An input is broadcast to its planes, partial sums go from
    PE to PE and wait in the buffer: m filters at a time, for all images. Inputs come from DRAM for
    every g filters, or for every m where the buffer holds all images of h channels besides."""
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
    """Many pixels of one channel (SOC-MOP): a tile of pixels stays in the array, a weight is
    broadcast to it, inputs shift between PEs and wait in registers: convolutional reuse in both
    directions, none between filters."""
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
    """Pixels of a row in several channels (MOC-MOP): reuse along the row, and of inputs between g
    filters; a weight is broadcast to the pixels of its filter."""
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
    """A pixel in many channels (MOC-SOP): an input is broadcast to g filters, every MAC reads its
    weight from the buffer."""
    g = min(pes, shape.filters)
    reads = shape.macs // shape.filters * ceil_div(shape.filters, g)
    yield Moves(2 * shape.macs, shape.macs, shape.macs + reads, _streamed(shape, buffer))


def no_local_reuse(shape: ConvShape, pes: int, buffer: int) -> Iterator[Moves]:
    """PEs without registers, in h groups of g: a group shares an input between g filters, the
    groups add the products of h channels; weights and partial sums live in the buffer."""
    for g, h in _pairs(pes, shape.filters, shape.channels):
        reads = shape.macs // shape.filters * ceil_div(shape.filters, g)
        rounds = ceil_div(shape.channels, h) * shape.r * shape.s
        yield Moves(
            register_file=0,
            array=shape.macs * (2 - 1 / h),
            buffer=shape.macs + reads + 2 * shape.outputs * (rounds - 1),
            dram=_streamed(shape, buffer),
        )


# Each model with the words of registers in a PE: the weight, the partial sum, and a row of inputs
# of up to 12 words where they shift.
_MODELS: dict[str, tuple[Callable[[ConvShape, int, int], Iterator[Moves]], int]] = {
    "WS": (weight_stationary, 1),
    "OSA": (output_stationary_a, 13),
    "OSB": (output_stationary_b, 13),
    "OSC": (output_stationary_c, 1),
    "NLR": (no_local_reuse, 0),
}


def _pairs(room: int, first: int, second: int) -> Iterator[tuple[int, int]]:
    """Yield the ways to fill room PEs with a x b, neither larger than it is good for."""
    for a in range(1, min(room, first) + 1):
        yield a, min(room // a, second)


def _span(outputs: int, taps: int, stride: int) -> int:
    """Return the inputs in a line that so many outputs touch."""
    return (outputs - 1) * stride + taps


def _streamed(shape: ConvShape, buffer: int) -> int:
    """Return the least words of DRAM where partial sums never leave the chip: strips of images stay
    in the buffer and the weights come by, or filters stay and the images come by."""
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
