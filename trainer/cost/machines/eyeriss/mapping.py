"""Mappings of a convolution onto a row-stationary array: traffic, cycles, and the best of them.

Sources: Chen, Krishna, Emer, Sze, "Eyeriss", JSSC 52(1), 2017, sections III and V ("the chip"), and
Chen, Emer, Sze, "Eyeriss", ISCA 2016 ("the analysis"). All counts are words of chip.word_bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ....errors import UserError
from .shape import ConvShape, ceil_div, fold


class Chip(NamedTuple):
    """A row-stationary machine; the defaults are the Eyeriss chip (JSSC 2017, section V).

    A PE has scratchpads of filter_words, input_words and psum_words. buffer_bytes hold inputs and
    partial sums, each in whole banks of bank_bytes; filter_bytes hold the filters of the next pass
    (0: they share the buffer, in banks of their own). Buses carry words per cycle of clock_hz; the
    DRAM link carries link_bytes per cycle of link_hz. With fewest_strips, outputs are cut into as
    few strips of equal height as the array allows, like the folding of the analysis.
    """

    rows: int = 12
    columns: int = 14
    filter_words: int = 224
    input_words: int = 12
    psum_words: int = 24
    buffer_bytes: int = 25 * 4096
    bank_bytes: int = 4096
    filter_bytes: int = 2 * 4096
    word_bytes: int = 2
    clock_hz: float = 200e6
    filter_bus: int = 4
    input_bus: int = 1
    psum_bus: int = 4
    link_hz: float = 60e6
    link_bytes: int = 8
    fewest_strips: bool = False


EYERISS = Chip()
# The analysis compares dataflows on 256 PEs with 512 bytes of registers each and a 128 KB buffer.
ISCA2016 = Chip(
    rows=16, columns=16, filter_words=220, buffer_bytes=128 * 1024, bank_bytes=2,
    filter_bytes=0, fewest_strips=True,
)  # fmt: skip


class Mapping(NamedTuple):
    """The mapping parameters of JSSC 2017, Table II.

    e: output rows in a strip; p, q: filters and channels interleaved in a PE; r, t: groups of
    channels and of filters on the array at once; m: filters whose partial sums the global buffer
    holds, for n images.
    """

    e: int
    p: int
    q: int
    r: int
    t: int
    m: int
    n: int


class Energy(NamedTuple):
    """Energy by level, in the unit of the `Costs` that gave it."""

    mac: float
    register_file: float
    array: float
    buffer: float
    dram: float

    @property
    def total(self) -> float:
        """The sum of all levels."""
        return sum(self)


class Costs(NamedTuple):
    """Energy of a MAC and of a word at each level. The defaults are those of ISCA 2016, Table IV,
    relative to a 16-bit MAC."""

    mac: float = 1
    register_file: float = 1
    array: float = 2
    buffer: float = 6
    dram: float = 200

    def price(
        self, macs: float, register_file: float, array: float, buffer: float, dram: float
    ) -> Energy:
        """Return the energy of MACs and of the words that move at each level."""
        amounts = (macs, register_file, array, buffer, dram)
        return Energy(*(amount * cost for amount, cost in zip(amounts, self, strict=True)))


class Counts(NamedTuple):
    """The work of a mapping: words moved between levels, cycles, and passes of the array."""

    dram_inputs: int
    dram_weights: int
    dram_outputs: int
    buffer: int
    array: int
    register_file: int
    passes: int
    cycles: int
    macs: int

    @property
    def dram(self) -> int:
        """Words to and from DRAM."""
        return self.dram_inputs + self.dram_weights + self.dram_outputs


def folded(shape: ConvShape, chip: Chip) -> ConvShape:
    """Return the shape with filters cut to what a set of PEs can hold. The chip itself has no such
    cut: it stops at filters of 12 rows."""
    return fold(shape, chip.rows, min(chip.input_words, chip.filter_words))


def sets(r: int, e: int, chip: Chip) -> int:
    """Return how many sets of r x e PEs the array holds (JSSC 2017, section III). A set wider than
    the array is cut into segments below each other: AlexNet's CONV2 runs 5 x 27 as 5 x 14 and
    5 x 13."""
    high = chip.rows // r
    return high * (chip.columns // e) if e <= chip.columns else high // ceil_div(e, chip.columns)


def banks(shape: ConvShape, chip: Chip, mapping: Mapping, halo: bool = False) -> int:
    """Return the banks of the buffer that partial sums, inputs and shared filters occupy; `halo`
    adds the rows of the other channels that the next strip reads again."""
    e, p, q, r, t, m, n = mapping
    sums = n * m * e * shape.f
    inputs = n * q * r * ((e - 1) * shape.stride + shape.r) * shape.columns
    if halo:
        others = max(0, shape.channels - q * r)
        inputs += n * others * max(0, shape.r - shape.stride) * shape.columns
    filters = 0 if chip.filter_bytes else p * t * q * r * shape.r * shape.s
    parts = (sums, inputs, filters)
    return sum(ceil_div(part * chip.word_bytes, chip.bank_bytes) for part in parts)


def misfit(shape: ConvShape, chip: Chip, mapping: Mapping) -> str | None:
    """Return what is wrong with a mapping of a folded shape on this chip, None if it fits."""
    if min(mapping) < 1:
        return f"expected positive numbers, got {min(mapping)}"
    e, p, q, r, t, m, _ = mapping
    filters = p * t * q * r * shape.r * shape.s * chip.word_bytes
    needs = {
        "sets of PEs": (r * t, sets(shape.r, e, chip)),
        "words of filter scratchpad": (p * q * shape.s, chip.filter_words),
        "words of input scratchpad": (q * shape.s, chip.input_words),
        "words of psum scratchpad": (p, chip.psum_words),
        "filters in a tile": (p * t, m),
        "bytes of filter buffer": (filters, chip.filter_bytes or filters),
        "banks of buffer": (banks(shape, chip, mapping), chip.buffer_bytes // chip.bank_bytes),
    }
    wrong = [(what, *pair) for what, pair in needs.items() if pair[0] > pair[1]]
    return next(
        (f"expected at most {most} {what}, got {needed}" for what, needed, most in wrong), None
    )


def count(shape: ConvShape, chip: Chip, mapping: Mapping) -> Counts:
    """Return the words that a mapping moves, exactly (JSSC 2017, section III).

    Global buffer: partial sums enter and leave once for each of k = ceil(channels / (q * r)) groups
    of channels; inputs are read once for each group of p * t filters:
    2 * k * n * m * e * f + n * c * rows(strips) * columns * ceil(filters / (p * t)). Filters pass
    through the buffer only where they share it.
    DRAM: weights arrive once per strip and tile of images; inputs once per tile of m filters, with
    their padding. Rows that two strips share arrive twice unless the buffer has room to keep them.
    Array: every word that reaches a PE, and every partial sum that moves on to the next PE.
    Registers: two operands, and a partial sum in and out, per MAC."""
    work = folded(shape, chip)
    e, p, q, r, t, m, n = mapping
    strips, tiles = ceil_div(work.e, e), ceil_div(work.n, n)
    groups, filters = ceil_div(work.channels, q * r), ceil_div(work.filters, p * t)
    strip_rows = (work.e - strips) * work.stride + strips * work.r
    keeps_halo = banks(work, chip, mapping, halo=True) * chip.bank_bytes <= chip.buffer_bytes
    row = work.n * work.c * work.columns
    weights = work.weights * strips * tiles
    passes = strips * groups * filters * work.groups * tiles
    return Counts(
        dram_inputs=row * (work.rows if keeps_halo else strip_rows) * ceil_div(work.filters, m),
        dram_weights=weights,
        dram_outputs=work.outputs,
        buffer=2 * groups * work.outputs
        + row * strip_rows * filters
        + (0 if chip.filter_bytes else weights),
        array=work.weights * work.e * tiles
        + row * work.r * work.e * ceil_div(work.filters, p)
        + work.outputs * groups * (work.r * r - 1),
        register_file=4 * shape.macs,
        passes=passes,
        cycles=passes * pass_cycles(work, chip, mapping),
        macs=shape.macs,
    )


def pass_cycles(shape: ConvShape, chip: Chip, mapping: Mapping) -> int:
    """Return the cycles of one pass of n images on the array.

    A column of outputs takes p * q * s cycles in every PE, or longer where a bus cannot deliver its
    inputs or partial sums in time. The PEs wait while filters and the first windows of inputs are
    loaded before a pass, and while the last partial sums are unloaded after it. This ramp is one of
    the reasons in JSSC 2017, section VI, why the chip stays below its peak.
    """
    e, p, q, r, t, _, n = mapping
    rows = q * r * ((e - 1) * shape.stride + shape.r)
    sums = ceil_div(p * t * e, chip.psum_bus)
    column = max(p * q * shape.s, ceil_div(rows * shape.stride, chip.input_bus), sums)
    filters = ceil_div(p * t * q * r * shape.r * shape.s, chip.filter_bus)
    return n * shape.f * column + filters + ceil_div(rows * shape.s, chip.input_bus) + sums


def search(shape: ConvShape, chip: Chip = EYERISS, costs: Costs | None = None) -> Mapping:
    """Return the best mapping, by exhaustive search: the least DRAM traffic, then buffer traffic,
    then cycles; with `costs` the least energy, then cycles. UserError where nothing fits.

    Tiles are equal: n divides the images, p * t divides m, and m divides the filters of a group or
    these rounded up to a multiple of four, the words of the filter bus. Shares of zeros play no
    part, since a mapping is fixed before the data are known.
    """

    def rank(mapping: Mapping) -> tuple[float, ...]:
        counts = count(shape, chip, mapping)
        if costs is not None:
            amounts = (counts.register_file, counts.array, counts.buffer, counts.dram)
            return costs.price(counts.macs, *amounts).total, counts.cycles
        return counts.dram, counts.buffer, counts.cycles

    work = folded(shape, chip)
    best = min(_candidates(work, chip), key=rank, default=None)
    if best is None:
        raise UserError(_missing(work, chip))
    return best


def _missing(shape: ConvShape, chip: Chip) -> str:
    """Return which number of a chip is too small for a folded shape, and what would fit the least
    mapping: one filter, one channel and one image in the lowest strip."""
    filters = shape.r * shape.s * chip.word_bytes
    if 0 < chip.filter_bytes < filters:
        return (
            f"chip.filter_bytes: expected at least {filters}, for the {shape.r} x {shape.s} words "
            f"of a filter, got {chip.filter_bytes}"
        )
    least = Mapping(_strips(shape, chip)[-1], 1, 1, 1, 1, 1, 1)
    needed = banks(shape, chip, least) * chip.bank_bytes
    return (
        f"chip.buffer_bytes: expected at least {needed}, in banks of {chip.bank_bytes}, for "
        f"{least.e} x {shape.f} outputs of one filter, got {chip.buffer_bytes}"
    )


def _candidates(shape: ConvShape, chip: Chip) -> Iterator[Mapping]:
    """Yield the mappings that fit; for each number of images only the largest m that does, as a
    smaller one reads the inputs more often and saves nothing."""
    tiles = sorted({*_divisors(shape.filters), *_divisors(ceil_div(shape.filters, 4) * 4)})
    images = _divisors(shape.n)
    for e, p, q, r, t in _array_mappings(shape, chip, tiles):
        larger = [m for m in reversed(tiles) if m % (p * t) == 0]
        for n in images:
            for m in larger:
                mapping = Mapping(e, p, q, r, t, m, n)
                if banks(shape, chip, mapping) * chip.bank_bytes <= chip.buffer_bytes:
                    yield mapping
                    break


def _array_mappings(
    shape: ConvShape, chip: Chip, tiles: list[int]
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield e, p, q, r, t that the array, the scratchpads and the filter buffer hold."""
    weights = shape.r * shape.s * chip.word_bytes
    for e in _strips(shape, chip):
        room = sets(shape.r, e, chip)
        most_q = min(chip.input_words, chip.filter_words) // shape.s
        for q in range(1, min(shape.channels, most_q) + 1):
            most = min(chip.psum_words, chip.filter_words // (q * shape.s))
            for r in _useful(ceil_div(shape.channels, q), room):
                for total in tiles:
                    if chip.filter_bytes and total * q * r * weights > chip.filter_bytes:
                        continue
                    for t in range(ceil_div(total, most), min(room // r, total) + 1):
                        if total % t == 0:
                            yield e, total // t, q, r, t


def _strips(shape: ConvShape, chip: Chip) -> list[int]:
    """Return the heights of equal strips of which a set fits the array, the highest first."""
    heights = sorted({ceil_div(shape.e, parts) for parts in range(1, shape.e + 1)}, reverse=True)
    fitting = [e for e in heights if sets(shape.r, e, chip)]
    return fitting[:1] if chip.fewest_strips else fitting


def _useful(total: int, most: int) -> list[int]:
    """Return the numbers up to `most` that divide a total into fewer parts than any smaller one."""
    return sorted({ceil_div(total, ceil_div(total, k)) for k in range(1, min(total, most) + 1)})


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
