"""Convolution of bfloat16 images by tiles, and its gradients: plans. Forward, also of 8-bit
integers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

from ....array import NDArray, Spec
from ....dtypes import DType
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..compiler.tiles import BYTES
from ..kernels.border import Pair
from ..kernels.conv_direct import Correlation
from ..kernels.conv_tiles import TileBlocks, TileCorrelation, blocks, correlate, depth
from ..kernels.epilogue import IMAGES, NOTHING, Epilogue
from ..kernels.pixels import Windows
from ..kernels.tile_weights import pack, pack_windows
from ..registry import tiled
from ..runtime.layout import address, plain
from ..runtime.parallel import ByImages, Scratch, Work
from .conv import forward_correlation, reaching_subgrid, windows
from .conv_pointwise import is_pointwise, pointwise
from .pixels import Gathered, Pixels, new_pixels

MOST = 3000  # taps that a kernel's code may have, in all runs of columns
LARGEST = 512  # bytes of a window that are laid out side by side
TAPS = 256  # of a filter: the kernels that pack weights hold a block of them on the stack
GRIDS = 9  # kernels that are worth the time of compiling blocks of several widths
SHARED = 16  # rows of windows that are enough for threads to share
NEAR, SEEN = 3 << 19, 1 << 19  # bytes of weights, and of images: see `TileBlocks`
Prepare = Callable[[NDArray], NDArray]


def padded(channels: int, width: int) -> int:
    """Return the next number of channels, of so many bytes, that tiles hold."""
    many = blocks(channels * width, BYTES)
    return many * blocks(blocks(channels, many) * width, 4) * 4 // width


def _source(
    target: Target, x: Spec, c: Correlation, rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[Correlation, Prepare | Gathered]:
    """Return the correlation that tiles do in the place of another, and what brings images into the
    order for it. Where pixels have few channels, it sees whole windows as channels of one pixel:
    taps of `rows` and `columns`, which are to be gathered."""
    n, taps, size = x.shape[0], len(c.taps), x.dtype.itemsize
    if 2 * c.channels * size < BYTES and c.channels * taps * size <= LARGEST:
        width = padded(c.channels * taps, size)
        seen = Windows(n, c.channels, c.image, c.output, rows, columns, c.stride, width)
        one = c._replace(
            channels=width, indices=1, image=c.output, taps=((0, 0, 0),), stride=(1, 1)
        )
        return one, Gathered(target, x, seen)
    return _dense(target, x, c)


def _dense(target: Target, x: Spec, c: Correlation) -> tuple[Correlation, Prepare]:
    """Return a correlation of images with as many channels as whole tiles have, and what brings
    images into their order."""
    if depth(c.channels, x.dtype.itemsize):
        return c, Pixels(target, x).of
    width = padded(c.channels, x.dtype.itemsize)
    seen = Windows(x.shape[0], c.channels, c.image, c.image, (0,), (0,), (1, 1), width)
    return c._replace(channels=width), Gathered(target, x, seen).of


class PackedWeights:
    """Packs weights, which are brought into an `order` before, in memory of its own."""

    def __init__(self, function: Any, size: int, dtype: str, order: Prepare = plain) -> None:
        self.function, self.order, self.memory = function, order, Scratch(size, dtype)

    def of(self, w: NDArray) -> int:
        """Return the address of packed weights."""
        filters, to = self.order(w), self.memory.address(0)
        self.function(address(filters), to)
        return to


class TileConvolution:
    """Runs correlations that write one array (N, results, height, width) of a type; `names` are
    those of vectors that come first behind the factors. `by_rows`: never by blocks of images.
    Windows are gathered a few rows at a time, unless rows are so few that threads share images."""

    def __init__(
        self, target: Target, several: list[TileCorrelation], prepare: Prepare | Gathered,
        weights: PackedWeights, dtype: DType, names: tuple[str, ...], epilogue: Epilogue = NOTHING,
        by_rows: bool = False,
    ) -> None:  # fmt: skip
        first = several[0]
        self.first, self.several, self.prepare, self.weights = first, several, prepare, weights
        self.dtype, self.names = dtype, (*names, *epilogue.pointers)
        self.shape = first.images, first.results, *first.whole
        self.pixels = Pixels(target, Spec(self.shape, dtype))
        self.kernels, any_outer = [], False
        way = target.vary(TileBlocks(NEAR, SEEN))
        # Where each remainder by a large stride has a kernel, one kind of block is enough.
        across = min(c.across for c in several) if len(several) <= GRIDS else 1
        parts = [*first.blocked(first.most // across)]
        for number, c in enumerate(several):
            outer = c.width * c.weights > way.near
            any_outer |= outer
            for tall, image, count in parts:
                options = "bias" in names, epilogue, not (number or image)
                function = build(correlate, target, c, across, tall, outer, *options)
                self.kernels.append((function, c, image, sum(tall), count))
        # Sums are those of a row of results, so these rows cannot be shared otherwise.
        rows, whole = first.output[0], sum(count for *_, count in parts)
        gathers = isinstance(prepare, Gathered)
        by_rows |= (gathers and rows >= SHARED) or epilogue.moments or epilogue.sums
        self.by_blocks = whole > rows and not by_rows
        self.units = whole if self.by_blocks else rows
        size = first.width * first.images * first.channels * prod(first.image)
        self.gathers = gathers and not self.by_blocks
        # Images are seen again for each block of results, or windows after they are laid out.
        again = self.by_blocks or any_outer or self.gathers
        self.few = max(1, way.seen * self.units // size) if again else self.units
        self.room = Scratch(size // rows * self.few * self.gathers, "uint8")

    def planned(self) -> ByImages:
        """Return the executable, which works on a row of results at a time, or on a block of images
        where rows are few."""
        return ByImages(self.units, sum(c.macs for c in self.several), self.begin)

    def begin(self, x: NDArray, w: NDArray, *more: NDArray) -> tuple[NDArray, Work]:
        """Return the result, and what works on rows of it."""
        images, weights = self._images(x), self.weights.of(w)
        y = new_pixels(self.shape, self.dtype)
        others = [
            (self.pixels.of(a) if name in IMAGES else plain(a), name in IMAGES)
            for name, a in zip(self.names, more, strict=True)
        ]

        def some(first: int, count: int, worker: int) -> None:
            for start in range(first, first + count, self.few):
                many = min(self.few, first + count - start)
                few(images(start, many, worker), start, many)

        def few(source: int, first: int, count: int) -> None:
            before = 0  # blocks of images of the kernels so far
            for function, c, image, height, many in self.kernels:
                row, rows, block, some_blocks = first, min(count, c.output[0] - first), 0, many
                if self.by_blocks:
                    row, rows, block = 0, c.output[0], max(0, first - before)
                    some_blocks = min(many, first + count - before) - block
                    before = (before + many) % self.units
                if rows > 0 and some_blocks > 0:
                    start = image + block * height
                    come, go = (
                        start * k * s
                        for k, s in ((c.channels, c.width), (c.results, self.dtype.itemsize))
                    )
                    ends = source + come, weights, address(y) + go
                    tail = [address(a) + go * whole for a, whole in others]
                    function(*ends, *tail, row, rows, some_blocks)

        return y, some

    def _images(self, x: NDArray) -> Callable[[int, int, int], int]:
        """Return what tells a thread the address of images in the order of tiles, of which it then
        sees so many rows."""
        if not (isinstance(self.prepare, Gathered) and self.gathers):
            prepare = self.prepare.of if isinstance(self.prepare, Gathered) else self.prepare
            source = prepare(x)
            return lambda first, count, worker: address(source)
        n = self.first.images
        lay, line = self.prepare.by_rows(x, n), self.prepare.line(n)

        def some(first: int, count: int, worker: int) -> int:
            to = self.room.address(worker)
            lay((0, n), (first, count), to)
            return to - first * line

        return some


@tiled("conv2d")
def conv2d(
    target: Target, x: Spec, w: Spec, *b: Spec, stride: Pair, padding: Any, dilation: Pair,
    groups: int, epilogue: Epilogue = NOTHING, by_rows: bool = False,
) -> ByImages | None:  # fmt: skip
    """Plan a convolution, with a bias if there is one, and an epilogue, whose arrays come last;
    None for several groups and for large filters."""
    if groups == 1 and not target.convolves and is_pointwise(x, w, stride, padding):
        return pointwise(conv2d, target, (x, w, *b), epilogue, {})
    if groups > 1 or not target.convolves or prod(w.shape[2:]) > TAPS:
        return None
    c, prepare = forward(target, x, w, stride, padding, dilation)
    if c.length > MOST:
        return None
    whole = isinstance(prepare, Gathered)
    build_pack = pack_windows if whole else pack
    sizes = w.shape[0], w.shape[1], prod(w.shape[2:])
    rest = () if whole else (False,)
    function = build(build_pack, target, sizes, c.depth, c.channels, *rest)
    weights, names = PackedWeights(function, c.weights, c.kind), ("bias",) * len(b)
    call = TileConvolution(target, [c], prepare, weights, w.dtype, names, epilogue, by_rows)
    return call.planned()


def forward(
    target: Target, x: Spec, w: Spec, stride: Pair, padding: Any, dilation: Pair
) -> tuple[TileCorrelation, Prepare | Gathered]:
    """Return a forward convolution as tiles do it; see `_source`."""
    m, _, r, s = w.shape
    output = windows((x.shape[2], x.shape[3]), (r, s), stride, padding, dilation)
    start = (-padding[0][0], -padding[1][0])
    c = forward_correlation(x, m, output, (r, s), start, stride, dilation, 1)
    rows, columns = (
        tuple(i * d + first for i in range(taps))
        for taps, d, first in zip((r, s), dilation, start, strict=True)
    )
    c, prepare = _source(target, x, c, rows, columns)
    found = TileCorrelation.of(c, x.shape[0], output)
    return found._replace(kind=x.dtype.name), prepare


@tiled("conv2d_dx")
def conv2d_dx(
    target: Target, dy: Spec, w: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int, epilogue: Epilogue = NOTHING, by_rows: bool = False,
) -> ByImages | None:  # fmt: skip
    """Plan the gradient of x, a correlation for the pixels at each remainder by the stride, and an
    epilogue, whose arrays come last."""
    if groups == 1 and not target.convolves and is_pointwise(dy, w, stride, padding):
        return pointwise(conv2d_dx, target, (dy, w), epilogue, {"size": (dy.shape[0], 1)})
    if groups > 1 or not target.convolves or prod(w.shape[2:]) > TAPS:
        return None
    several, n = [], dy.shape[0]
    for first in product(range(min(stride[0], size[0])), range(min(stride[1], size[1]))):
        grid = reaching_subgrid(dy, w, size, first, stride, padding, dilation, groups)
        grid, prepare = _dense(target, dy, grid)
        several.append(TileCorrelation.of(grid, n, size, first, stride))
    if max(c.length for c in several) > MOST:
        return None
    sizes, one = (w.shape[0], w.shape[1], prod(w.shape[2:])), several[0]
    function = build(pack, target, sizes, one.depth, one.channels, True)
    weights = PackedWeights(function, one.weights, one.kind)
    call = TileConvolution(target, several, prepare, weights, w.dtype, (), epilogue, by_rows)
    return call.planned()
