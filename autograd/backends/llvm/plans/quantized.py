"""Rounding to 8-bit integers, and their convolutions and products: plans."""

from __future__ import annotations

from math import prod
from typing import Any

from ....array import NDArray, Spec
from ....dtypes import FLOAT32, INT8
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.border import Pair
from ..kernels.octets import SUMS, TERMS, pack, rounded
from ..kernels.quantized import IntegerCorrelation, IntegerTile, correlate
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address, channels_last, plain
from ..runtime.parallel import Scratch, over_images
from .conv import CACHE, divisor, windows
from .quantized_tiles import convolution, product

LEAST = 1 << 8  # numbers below which NumPy rounds as fast
MOST_BLOCKS = 4  # of 16 results in a tile


@implements("quantize")
def quantize(
    target: Target, x: Spec, scale: Spec, factors: Spec, *, signed: bool
) -> Executable | None:
    """Plan the rounding of float32 numbers by one scale; None for others."""
    if x.dtype != FLOAT32 or scale.size != 1 or x.size < LEAST or not factors.size:
        return None
    low, high = (-127, 127) if signed else (0, 255)
    function = build(rounded, target, low, high)
    dtype = "int8" if signed else "uint8"
    layouts, results = Layouts(x), Layouts(Spec(x.shape, INT8))

    def run(x: NDArray, scale: NDArray, factors: NDArray) -> tuple[NDArray, NDArray]:
        lie = layouts.of(x)
        if lie is None:
            lie = layouts.plain
            x = layouts.moved(x, lie[1])
        y = results.new(tuple(s // x.itemsize for s in lie[1]))
        checked, factors = memory.empty(factors.shape, FLOAT32), plain(factors)
        ends = address(factors), address(y), address(checked)
        function(address(x), address(scale), *ends, layouts.size, factors.size)
        return y.view(dtype), checked

    return Executable(run, native=True)


class Correlations:
    """Runs a correlation of images that are channels-last."""

    def __init__(self, target: Target, c: IntegerCorrelation, images: int, biased: bool) -> None:
        tile = tile_of(target, c, images)
        self.c, self.function = c, build(correlate, target, c, tile, biased)
        self.pack = build(pack, target, c.results, c.channels, prod(c.taps), c.quads)
        self.weights = Scratch(c.groups * c.blocks * c.weights, INT8)  # padding stays zero
        self.room = Scratch(c.strides[0] * tile.images * c.is_copied, INT8)
        self.macs = prod(c.output) * prod(c.taps) * c.groups * c.results * c.channels

    def packed(self, w: NDArray) -> int:
        """Return the address of weights (M, .., C) as the kernel takes them."""
        c, place = self.c, self.weights.address(0)
        for group in range(c.groups):
            source = address(w) + group * c.results * prod(c.taps) * c.channels
            self.pack(source, place + group * c.blocks * c.weights)
        return place

    def run(self, x: int, w: int, vectors: list[int], y: int, images: int) -> None:
        """Correlate images."""
        c = self.c
        each = prod(c.image) * c.channels, prod(c.output) * c.results * FLOAT32.itemsize
        steps = [c.groups * size for size in each]

        def some(first: int, count: int, worker: int) -> None:
            ends = (a + first * step for a, step in zip((x, y), steps, strict=True))
            source, to = ends
            self.function(source, w, *vectors, to, self.room.address(worker), count)

        over_images(self.macs * images, images, some)


def tile_of(target: Target, c: IntegerCorrelation, images: int) -> IntegerTile:
    """Return a tile whose sums, weights and numbers of x fit the registers."""
    groups = -(-c.blocks // MOST_BLOCKS)
    blocks = -(-c.blocks // groups)
    most = min(16, (target.registers - 2 - blocks) // blocks)
    columns = divisor(c.output[1], most)
    rows = max(1, min(c.output[0], most // columns))
    each = c.strides[0] + prod(c.output) * c.groups * c.results * FLOAT32.itemsize
    return IntegerTile(rows, columns, blocks, max(1, min(images, CACHE // each)))


def _are_float32(vectors: tuple[Spec, ...]) -> bool:
    return all(v.dtype == FLOAT32 for v in vectors)


@implements("quantized_conv2d", integers=True)
def quantized_conv2d(
    target: Target, x: Spec, w: Spec, *vectors: Spec, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable | None:  # fmt: skip
    """Plan a convolution, by tiles where there are some; None for groups of few channels or
    results, and where there is no such instruction."""
    (n, _, h, wide), (m, channels, r, s) = x.shape, w.shape
    is_narrow = groups > 1 and (channels < TERMS or 2 * m < SUMS * groups)
    if is_narrow or not _are_float32(vectors):
        return None
    by_tiles = groups == 1 and convolution(
        target, x, w, len(vectors) > 1, stride, padding, dilation
    )
    if by_tiles or not target.adds_four_bytes:
        return by_tiles or None
    output = windows((h, wide), (r, s), stride, padding, dilation)
    start = (-padding[0][0], -padding[1][0])
    c = IntegerCorrelation(
        x.dtype == INT8, groups, channels, m // groups, (h, wide), output, (r, s), stride, dilation,
        start,
    )  # fmt: skip
    call = Correlations(target, c, n, len(vectors) > 1)

    def run(x: NDArray, w: NDArray, *vectors: NDArray) -> NDArray:
        source, filters, others = channels_last(x), channels_last(w), [plain(v) for v in vectors]
        y = memory.images(n, m, *output, FLOAT32)
        weights = call.packed(filters)
        call.run(address(source), weights, [address(v) for v in others], address(y), n)
        return y

    return Executable(run, native=True, keeps=call)


@implements("quantized_linear", integers=True)
def quantized_linear(target: Target, x: Spec, w: Spec, *vectors: Spec) -> Executable | None:
    """Plan a product, by tiles where there are some, else as a convolution of images that are some
    rows each; None where there is no such instruction."""
    if not _are_float32(vectors):
        return None
    by_tiles = product(target, x, w, len(vectors) > 1)
    if by_tiles or not target.adds_four_bytes:
        return by_tiles
    n, (m, channels) = prod(x.shape[:-1]), w.shape
    few = max(1, min(n, tile_of(target, _row(x, m, n), 1).columns))
    calls = [
        (Correlations(target, _row(x, m, width), count, len(vectors) > 1), first, count)
        for width, first, count in ((few, 0, n // few), (n % few, n - n % few, 1))
        if width
    ]

    def run(x: NDArray, w: NDArray, *vectors: NDArray) -> NDArray:
        source, filters, others = plain(x), plain(w), [plain(v) for v in vectors]
        y = memory.empty((n, m), FLOAT32)
        weights = calls[0][0].packed(filters)
        numbers = [address(v) for v in others]
        for call, first, count in calls:
            ends = address(source) + first * channels, address(y) + first * m * FLOAT32.itemsize
            call.run(ends[0], weights, numbers, ends[1], count)
        return y.reshape(*x.shape[:-1], m)

    return Executable(run, native=True, keeps=calls)


def _row(x: Spec, results: int, pixels: int) -> IntegerCorrelation:
    line, one, none = (1, pixels), (1, 1), (0, 0)
    signed = x.dtype == INT8
    return IntegerCorrelation(signed, 1, x.shape[-1], results, line, line, one, one, one, none)
