"""Convolution of bfloat16 images by tiles, and its gradients: plans."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from ....array import NDArray, Spec
from ....dtypes import FLOAT32
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..compiler.tiles import ROWS
from ..kernels import conv_tiles_weights as gradient
from ..kernels.border import Pair
from ..kernels.conv_tiles import (
    BLOCK,
    TileCorrelation,
    block_images,
    blocks,
    correlate,
    pack_weights,
)
from ..kernels.elementwise import converted
from ..kernels.sweep import increase
from ..registry import tiled
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, channels_last, plain
from ..runtime.parallel import Scratch, in_parts, over_images
from .conv import forward_correlation, reaching_subgrid, windows

PARTS = 8  # of the images, at most, whose sums are made apart


def _extent(n: int, channels: int, pixels: Pair) -> int:
    """Return the numbers of blocked images."""
    return blocks(n, ROWS) * blocks(channels) * prod(pixels) * ROWS * BLOCK


class Correlations:
    """Runs correlations of blocked images that write one array, for images that are channels-last
    outside."""

    def __init__(
        self, target: Target, several: list[TileCorrelation], x: Spec, w: Spec, turned: bool,
        biased: bool = False,
    ) -> None:  # fmt: skip
        first = several[0]
        self.n, self.dtype = x.shape[0], x.dtype
        self.image, self.whole = first.image, first.whole
        self.channels, self.results = first.channels, first.results
        self.functions = [build(correlate, target, c, biased) for c in several]
        self.block = build(block_images, target, first.channels, first.image, False)
        self.plain = build(block_images, target, first.results, first.whole, True)
        sizes = first.results, first.channels, first.indices
        self.pack = build(pack_weights, target, *sizes, turned)
        self.weights = Scratch(first.weights, w.dtype)  # padding stays zero
        self.bias = Scratch(blocks(first.results) * BLOCK, FLOAT32)
        self.widen = build(converted, target, (x.dtype.name, "float32"))
        self.macs = sum(prod(c.output) * len(c.taps) for c in several) * prod(sizes[:2]) * self.n

    def run(self, x: NDArray, w: NDArray, *bias: NDArray) -> NDArray:
        """Return the result (N, results, height, width)."""
        source, filters, n = channels_last(x), plain(w), self.n
        y = memory.images(n, self.results, *self.whole, self.dtype)
        ends = [
            memory.empty((_extent(n, channels, pixels),), self.dtype)
            for channels, pixels in ((self.channels, self.image), (self.results, self.whole))
        ]
        weights = self.weights.address(0)
        self.pack(address(filters), weights)
        biases = [plain(b) for b in bias]  # which must live until they are read
        for b in biases:
            self.widen(address(b), self.bias.address(0), self.results)
        others = [self.bias.address(0)] * len(biases)
        size = self.dtype.itemsize
        inside = [end.nbytes // blocks(n, ROWS) for end in ends]
        outside = [ROWS * a * prod(p) * size for a, p in (
            (self.channels, self.image), (self.results, self.whole))]  # fmt: skip

        def some(first: int, count: int, worker: int) -> None:
            images = min(n - first * ROWS, count * ROWS)
            come, go = (address(end) + first * step for end, step in zip(ends, inside, strict=True))
            self.block(address(source) + first * outside[0], come, images)
            for function in self.functions:
                function(come, weights, go, *others, count)
            self.plain(address(y) + first * outside[1], go, images)

        over_images(self.macs, blocks(n, ROWS), some)
        return y


@tiled("conv2d")
def conv2d(
    target: Target, x: Spec, w: Spec, *b: Spec, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable | None:  # fmt: skip
    """Plan a convolution, with a bias if there is one; None for several groups."""
    if groups > 1:
        return None
    m, _, r, s = w.shape
    output = windows((x.shape[2], x.shape[3]), (r, s), stride, padding, dilation)
    start = (-padding[0][0], -padding[1][0])
    c = TileCorrelation.of(
        forward_correlation(x, m, output, (r, s), start, stride, dilation, groups), output
    )
    call = Correlations(target, [c], x, w, False, bool(b))
    return Executable(call.run, native=True, keeps=call)


@tiled("conv2d_dx")
def conv2d_dx(
    target: Target, dy: Spec, w: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of x: a correlation for the pixels at each remainder by the stride."""
    if groups > 1:
        return None
    several = []
    for first in product(range(min(stride[0], size[0])), range(min(stride[1], size[1]))):
        grid = reaching_subgrid(dy, w, size, first, stride, padding, dilation, groups)
        several.append(TileCorrelation.of(grid, size, first, stride))
    call = Correlations(target, several, dy, w, True)
    return Executable(call.run, native=True, keeps=call)


@tiled("conv2d_dw")
def conv2d_dw(
    target: Target, x: Spec, dy: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of w, in float32."""
    if groups > 1:
        return None
    (n, channels, h, wide), (_, m, e, f), (r, s) = x.shape, dy.shape, size
    start = (-padding[0][0], -padding[1][0])
    c = TileCorrelation.of(
        forward_correlation(x, m, (e, f), (r, s), start, stride, dilation, groups), (e, f)
    )
    line = (blocks(m, ROWS) * f + stride[0] * blocks(channels, ROWS) * wide) * 2 * gradient.PLACE
    function = build(gradient.correlate_weights, target, c, max(1, gradient.NEAR // line))
    packs = [
        build(gradient.pack_images, target, channels, (h, wide), False),
        build(gradient.pack_images, target, m, (e, f), True),
    ]
    rooms = [
        Scratch(blocks(k, ROWS) * prod(pixels) * gradient.PLACE, x.dtype)
        for k, pixels in ((channels, (h, wide)), (m, (e, f)))
    ]
    extent = r * s * blocks(m, ROWS) * blocks(channels, ROWS) * ROWS * ROWS
    empty, add = build(gradient.clear, target), build(increase, target, "float32")
    unpack = build(gradient.unpack_sums, target, m, channels, r * s)
    groups_of_images = blocks(n, gradient.IMAGES)
    parts = min(PARTS, groups_of_images)
    steps = [gradient.IMAGES * a.nbytes // n for a in (x, dy)]

    def run(x: NDArray, dy: NDArray) -> NDArray:
        sources = channels_last(x), channels_last(dy)
        sums = memory.empty((parts, extent), FLOAT32)

        def one(part: int, first: int, count: int, worker: int) -> None:
            to = address(sums) + part * extent * sums.itemsize
            empty(to, extent)
            packed = [room.address(worker) for room in rooms]
            for group in range(first, first + count):
                for pack, a, step, place in zip(packs, sources, steps, packed, strict=True):
                    images = min(gradient.IMAGES, n - group * gradient.IMAGES)
                    pack(address(a) + group * step, place, images)
                function(*packed, to)

        in_parts(groups_of_images, parts, one)
        for part in range(1, parts):
            add(address(sums), address(sums) + part * extent * sums.itemsize, extent)
        w = memory.empty((m, channels, r, s), FLOAT32)
        unpack(address(sums), address(w))
        return w

    return Executable(run, native=True)
