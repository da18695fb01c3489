"""Convolution and its two gradients: which kernels, on which memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import FLOAT32, DType, computed_in
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.border import Pair
from ..kernels.conv_direct import ConvTile, Correlation, correlate, correlate_weights, pack
from ..kernels.conv_winograd import Winograd, multiplications
from ..kernels.epilogue import NOTHING, Epilogue
from ..kernels.sweep import increase
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, channels_last, plain
from ..runtime.parallel import ByImages, Scratch, Work, in_parts, parts_of
from . import conv_winograd
from .epilogue import tail_of

FOLD = 128  # multiply-accumulates in whose time a number of a part's sums is written and folded
CACHE = 1 << 19  # bytes of images that are worked on at a time: half of a second-level cache


def divisor(size: int, most: int) -> int:
    """Return the columns of a tile: the largest divisor of `size` up to `most`, or `most` itself if
    that would be less than half of it."""
    best = max(d for d in range(1, min(size, most) + 1) if size % d == 0)
    return best if 2 * best > most or best == size else min(size, most)


def chunk(c: Correlation, images: int, size: int) -> int:
    """Return how many images to work on at a time, so that they stay in the cache."""
    border = c.border
    each = (border.strides[0] + prod(c.output) * c.results * c.groups) * size
    return max(1, min(images, CACHE // max(1, each)))


def forward_tile(target: Target, c: Correlation, images: int) -> ConvTile:
    """Return a tile for a correlation: its sums, the weights of the shared taps and one number of x
    must fit the registers."""
    size, vectors = _computed(c).itemsize, 1 if c.results <= target.lanes(c.dtype) else 2
    # With stride 1 neighbouring pixels see the same numbers of x through the taps of a row.
    shared = 3 if vectors == 1 and c.stride[1] == 1 else 1
    room = target.registers - 1 - shared * vectors
    # 16 sums keep two multiply-add units busy; more would only make the code longer.
    most = min(16 if vectors == 1 else 8, room // vectors)
    columns = divisor(c.output[1], most)
    rows = max(1, min(c.output[0], most // columns))
    # A turn of the loop over channels has some 600 multiply-adds at most: code must stay short.
    unroll = max(1, min(4, 600 // max(1, len(c.taps) * rows * columns * vectors)))
    return target.vary(ConvTile(rows, columns, vectors, shared, unroll, chunk(c, images, size)))


def weights_tile(target: Target, c: Correlation, images: int) -> ConvTile:
    """Return a tile for the gradient of the weights: its sums, vectors of dy and one number of x
    must fit the registers."""
    size = _computed(c).itemsize
    taps = min(target.isa.gradient_taps, len(c.taps)) if c.stride[1] == 1 else 1
    channels = min(target.registers // 4, c.channels)
    if c.channels < 4 and c.stride[1] == 1:
        # Few channels make few sums, each of which waits for its last multiply-add: more taps help.
        taps = -(-len(c.taps) // -(-len(c.taps) * c.channels // target.isa.gradient_sums))
    vectors = 2 if taps == 1 and c.results > target.lanes(c.dtype) else 1
    unroll = divisor(c.output[1], 16 if taps > 1 else 4)
    return target.vary(ConvTile(1, channels, vectors, taps, unroll, chunk(c, images, size)))


def bordered(c: Correlation, tile: ConvTile) -> Scratch:
    """Return scratch memory for a kernel's images with borders of zeros."""
    return Scratch(c.border.elements * tile.images, _computed(c))


def _computed(c: Correlation) -> DType:
    """Return the type of arithmetic, which is that of weights and scratch memory too."""
    return computed_in(np.dtype(c.dtype))


@implements("conv2d", narrow=True)
def conv2d(
    target: Target, x: Spec, w: Spec, *b: Spec, stride: Pair, padding: Any, dilation: Pair,
    groups: int, epilogue: Epilogue = NOTHING,
) -> ByImages:  # fmt: skip
    """Plan y = the correlation of x (N, C, H, W) with w (M, C/groups, R, S), plus a bias b (M,) if
    there is one, and an epilogue, whose arrays come last."""
    (n, _, h, wide), (m, _, r, s) = x.shape, w.shape
    e, f = windows((h, wide), (r, s), stride, padding, dilation)
    start = (-padding[0][0], -padding[1][0])
    if _plain(x, stride, dilation, groups):
        sizes = w.shape[1], m, n, (h, wide), (e, f)
        fast = conv_winograd.find(target, (r, s), *sizes, start, x.dtype.name)
        if fast:
            plan = conv_winograd.forward(target, fast, n, False, bool(b), epilogue)
            executed = multiplications(fast, n)
            return _fast(plan, n, m, (e, f), 2 + len(b), epilogue, executed)
    c = forward_correlation(x, m, (e, f), (r, s), start, stride, dilation, groups)
    return _direct(target, c, x, w, len(b), groups, epilogue)


def _direct(
    target: Target, c: Correlation, x: Spec, w: Spec, biases: int, groups: int, epilogue: Epilogue
) -> ByImages:
    """Plan a convolution by a direct kernel."""
    n, m, (e, f) = x.shape[0], w.shape[0], c.output
    tile = forward_tile(target, c, n)
    function = build(correlate, target, c, tile, bool(biases), epilogue)
    packed, scratch = _packer(target, w, groups, tile.vectors), bordered(c, tile)
    steps = (x.nbytes // n, c.out[0] * x.dtype.itemsize)

    def begin(x: NDArray, w: NDArray, *more: NDArray) -> tuple[NDArray, Work]:
        source, weights, bias = channels_last(x), packed(w), [plain(a) for a in more[:biases]]
        y, tail = memory.images(n, m, e, f, x.dtype), tail_of(epilogue, more[biases:])

        def some(first: int, count: int, worker: int) -> None:
            ends = address(source) + first * steps[0], address(weights)
            to = address(y) + first * steps[1]
            pointers = *map(address, bias), *tail(first)
            function(*ends, to, scratch.address(worker), *pointers, count)

        return y, some

    return ByImages(n, c.macs * n, begin)


@implements("conv2d_dx", narrow=True)
def conv2d_dx(
    target: Target, dy: Spec, w: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int, epilogue: Epilogue = NOTHING,
) -> ByImages:  # fmt: skip
    """Plan the gradient of x, and an epilogue, whose arrays come last."""
    if _plain(dy, stride, dilation, groups):
        fast = _fast_dx(target, dy, w, size, padding, epilogue)
        if fast is not None:
            return fast
    subgrids = [
        (first, reaching_subgrid(dy, w, size, first, stride, padding, dilation, groups))
        for first in product(range(min(stride[0], size[0])), range(min(stride[1], size[1])))
    ]
    return _direct_dx(target, dy, w, size, subgrids, groups, epilogue)


# The pixels of dx at one remainder by the stride: the first of them, and the correlation of dy with
# the taps that reach them, which may be none.
Subgrid: TypeAlias = tuple[Pair, Correlation]


def _direct_dx(
    target: Target, dy: Spec, w: Spec, size: Pair, subgrids: list[Subgrid], groups: int,
    epilogue: Epilogue,
) -> ByImages:  # fmt: skip
    """Plan the gradient of x by direct kernels, one for each subgrid."""
    (n, m, e, f), (_, channels, r, s) = dy.shape, w.shape
    (h, wide), c = size, channels * groups
    pixel = c * dy.dtype.itemsize
    kernels = [*_subgrid_kernels(target, subgrids, n, wide * pixel, pixel, epilogue)]
    sums = sum(prod(grid.output) * len(grid.taps) for _, grid in subgrids) * m * channels
    # All subgrids have as many results, and so as many vectors of them.
    vectors = forward_tile(target, subgrids[-1][1], n).vectors
    packed = _packer(target, w, groups, vectors, turned=True)
    steps = (dy.nbytes // n, h * wide * pixel)

    def begin(dy: NDArray, w: NDArray, *more: NDArray) -> tuple[NDArray, Work]:
        source, weights = channels_last(dy), packed(w)
        dx, tail = memory.images(n, c, h, wide, dy.dtype), tail_of(epilogue, more)

        def some(first: int, count: int, worker: int) -> None:
            ends = address(source) + first * steps[0], address(weights)
            to = address(dx) + first * steps[1]
            for offset, function, scratch in kernels:
                own = to + offset, scratch.address(worker)
                function(*ends, *own, *tail(first, offset), count)

        return dx, some

    return ByImages(n, n * prod((e, f, m, channels, r, s)), begin, executed=n * sums)


def _subgrid_kernels(
    target: Target, subgrids: list[Subgrid], images: int, row: int, pixel: int, epilogue: Epilogue
) -> Iterator[tuple[int, Any, Scratch]]:
    """Yield where each subgrid of dx begins, in bytes, its kernel, and memory for borders; `row`
    and `pixel` are the bytes of one of dx."""
    for number, (first, grid) in enumerate(subgrids):
        tile = forward_tile(target, grid, images)
        # Only the first subgrid begins the epilogue's sums; the others go on with them.
        begins = not (number and any(epilogue))
        function = build(correlate, target, grid, tile, False, epilogue, begins)
        yield first[0] * row + first[1] * pixel, function, bordered(grid, tile)


def _fast_dx(
    target: Target, dy: Spec, w: Spec, size: Pair, padding: Any, epilogue: Epilogue
) -> ByImages | None:
    """Plan the gradient of x by Winograd's method: transposed, or as a convolution of dy with the
    filters turned round; None where neither pays."""
    (n, m, *output), (_, channels, r, s) = dy.shape, w.shape
    e, f = output
    start = (-padding[0][0], -padding[1][0])
    dtype = dy.dtype.name
    back = conv_winograd.find_back(target, (r, s), channels, m, n, size, (e, f), start, dtype)
    if back:
        plan = conv_winograd.backward(target, back, n, epilogue)
        executed = multiplications(back, n)  # the transposed method's are as many
        return _fast(plan, n, channels, size, 2, epilogue, executed)
    start = (padding[0][0] - r + 1, padding[1][0] - s + 1)
    fast = conv_winograd.find(target, (r, s), m, channels, n, (e, f), size, start, dtype)
    if not fast:
        return None
    plan = conv_winograd.forward(target, fast, n, True, False, epilogue)
    return _fast(plan, n, channels, size, 2, epilogue, multiplications(fast, n))


def reaching_subgrid(
    dy: Spec, w: Spec, size: Pair, first: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Correlation:  # fmt: skip
    """Return the correlation of dy that gives the pixels of dx at `first`, and every stride from
    there on."""
    (_, m, e, f), (_, channels, r, s) = dy.shape, w.shape
    (h, wide), c = size, channels * groups
    rows, columns = (
        _reaching(first[axis], padding[axis][0], dilation[axis], stride[axis], taps)
        for axis, taps in enumerate((r, s))
    )
    taps = sorted((down, right, i * s + j) for i, down in rows for j, right in columns)
    output = (-(-(h - first[0]) // stride[0]), -(-(wide - first[1]) // stride[1]))
    out = (h * wide * c, stride[0] * wide * c, stride[1] * c)
    return Correlation(
        dy.dtype.name, m // groups, channels, groups, r * s, (e, f), output, (*taps,), (1, 1), out
    )


def _reaching(first: int, pad: int, apart: int, step: int, count: int) -> list[Pair]:
    """Return which of `count` taps along an axis see the pixel `first`, and the place of dy that
    each belongs to. The window at e sees the pixels e step - pad + tap apart."""
    sums = ((tap, first + pad - tap * apart) for tap in range(count))
    return [(tap, total // step) for tap, total in sums if total % step == 0]


@implements("conv2d_dw", narrow=True)
def conv2d_dw(
    target: Target, x: Spec, dy: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable:  # fmt: skip
    """Plan the gradient of w, in the type of arithmetic."""
    (n, channels, h, wide), (_, m, e, f), (r, s) = x.shape, dy.shape, size
    start = (-padding[0][0], -padding[1][0])
    if _plain(x, stride, dilation, groups):
        sizes = channels, m, n, (h, wide), (e, f)
        fast = conv_winograd.find(target, (r, s), *sizes, start, x.dtype.name)
        if fast:
            return _fast_weights(target, fast, n)
    c = forward_correlation(x, m, (e, f), (r, s), start, stride, dilation, groups)
    dtype = _computed(c)
    tile = weights_tile(target, c, n)
    function, scratch = build(correlate_weights, target, c, tile), bordered(c, tile)
    shape = (groups, r * s, c.channels, c.results)
    parts = parts_of(c.macs * n, n, FOLD * prod(shape))
    steps = x.nbytes // n, prod(shape) * dtype.itemsize, dy.nbytes // n
    add = build(increase, target, dtype.name)

    def run(x: NDArray, dy: NDArray) -> NDArray:
        source, tops = channels_last(x), channels_last(dy)
        sums = memory.empty((parts, *shape), dtype)

        def one(part: int, first: int, count: int, worker: int) -> None:
            ends = address(source) + first * steps[0], address(sums) + part * steps[1]
            top = address(tops) + first * steps[2]
            function(*ends, top, scratch.address(worker), count)

        in_parts(n, parts, one)
        for part in range(1, parts):
            add(address(sums), address(sums) + part * steps[1], prod(shape))
        return sums[0].transpose(0, 3, 2, 1).reshape(m, c.channels, r, s)

    # With groups, `reshape` copies, which is NumPy's work.
    return Executable(run, native=groups == 1)


def windows(size: Pair, taps: Pair, stride: Pair, padding: Any, dilation: Pair) -> Pair:
    """Return how many windows lie along each axis of an image, which the shape rule has checked."""
    e, f = (
        (n + before + after - d * (t - 1) - 1) // step + 1
        for n, (before, after), d, t, step in zip(
            size, padding, dilation, taps, stride, strict=True
        )
    )
    return e, f


def forward_correlation(
    x: Spec, m: int, output: Pair, size: Pair, start: Pair, stride: Pair, dilation: Pair,
    groups: int,
) -> Correlation:  # fmt: skip
    """Return the correlation of x with m filters of a size, the first window from `start` on."""
    (_, channels, h, wide), (e, f), (r, s) = x.shape, output, size
    taps = tuple(
        (i * dilation[0] + start[0], j * dilation[1] + start[1], i * s + j)
        for i in range(r)
        for j in range(s)
    )
    return Correlation(
        x.dtype.name, channels // groups, m // groups, groups, r * s, (h, wide), output, taps,
        stride, (e * f * m, f * m, m),
    )  # fmt: skip


def _plain(x: Spec, stride: Pair, dilation: Pair, groups: int) -> bool:
    """Tell whether Winograd's method supports a convolution's type and attributes."""
    return computed_in(x.dtype) == FLOAT32 and stride == dilation == (1, 1) and groups == 1


def _fast(
    plan: conv_winograd.WinogradPlan, n: int, results: int, output: Pair, operands: int,
    epilogue: Epilogue, executed: int,
) -> ByImages:  # fmt: skip
    """Plan a convolution, or the gradient of x, by Winograd's method; what follows takes the arrays
    behind the first `operands`."""

    def begin(x: NDArray, w: NDArray, *more: NDArray) -> tuple[NDArray, Work]:
        y, tail = memory.images(n, results, *output, x.dtype), more[operands - 2 :]
        bias = [plain(a) for a in more[: operands - 2]]
        return y, plan.begin(channels_last(x), plain(w), bias, y, tail_of(epilogue, tail))

    return ByImages(n, plan.macs, begin, executed=executed)


def _fast_weights(target: Target, c: Winograd, n: int) -> Executable:
    """Plan the gradient of w by Winograd's method."""
    function = conv_winograd.weights(target, c, n)

    def run(x: NDArray, dy: NDArray) -> NDArray:
        return function(channels_last(x), channels_last(dy))

    executed = multiplications(c, n, gradient=True)
    return Executable(run, native=True, executed=executed)


def _packer(
    target: Target, w: Spec, groups: int, vectors: int, turned: bool = False
) -> Callable[[NDArray], NDArray]:
    """Return a function that lays out weights (M, C/groups, R, S) for a correlation.

    `vectors` are those of results in its tiles. With `turned` the correlation gives the gradient of
    x, so results and channels change roles.
    """
    results, channels, indices = w.shape[0] // groups, w.shape[1], w.shape[2] * w.shape[3]
    if turned:
        results, channels = channels, results
    width = vectors * target.lanes(w.dtype)
    sizes = groups, indices, channels, results, width
    function, dtype = build(pack, target, w.dtype.name, *sizes, turned), computed_in(w.dtype)

    def run(w: NDArray) -> NDArray:
        w, packed = plain(w), memory.empty((w.size,), dtype)
        function(address(w), address(packed))
        return packed

    return run
