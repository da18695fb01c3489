"""When a convolution is done by Winograd's method, in which blocks, and on which memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from ....array import NDArray
from ....dtypes import FLOAT32
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.border import Border, Pair
from ..kernels.conv_winograd import BlockShape, Plane, Winograd, convolve, factors, padded, planes
from ..kernels.conv_winograd_back import canvas, convolve_back, reaches, turned
from ..kernels.conv_winograd_weights import collect_weights, convolve_weights, spread_weights
from ..kernels.epilogue import NOTHING, Epilogue
from ..runtime import memory
from ..runtime.layout import address
from ..runtime.parallel import Scratch, Work, in_parts, parts_of
from .epilogue import Following

CACHE = 1 << 20  # bytes of weights that stay in the second-level cache
PLANES = 1 << 18  # bytes of transformed tiles that leave the first-level cache little to fetch
CHANNELS, TILES = 16, 32  # fewer are not worth the transforms
FOLD = 24  # multiply-accumulates in whose time a number of a part's sums is written and folded
TRANSFORM = 10  # products of vectors in whose time one is transformed


class WinogradPlan(NamedTuple):
    """A convolution of so many MACs: `begin(x, w, b, y, tail)` returns what works on some
    images."""

    macs: int
    begin: Callable[[NDArray, NDArray, list[NDArray], NDArray, Following], Work]


_shared = threading.local()


def find(
    target: Target, taps: Pair, channels: int, results: int, images: int, image: Pair,
    output: Pair, start: Pair, dtype: str,
) -> Winograd | None:  # fmt: skip
    """Return how Winograd's method does a convolution of stride 1, None where it is to be direct:
    the parameters are those of `Winograd`."""
    if target.convolution == "direct" or taps not in ((3, 3), (5, 5)):
        return None
    large = target.convolution != "winograd2" and taps == (3, 3) and max(output) > 4
    m = 4 if large else 2
    c = Winograd(m, taps[0], channels, results, image, output, start, dtype)
    pays = min(channels, results) >= CHANNELS and images * c.grid[0] * c.grid[1] >= TILES
    return c if pays or target.convolution != "auto" else None


def find_back(
    target: Target, taps: Pair, channels: int, results: int, images: int, image: Pair,
    output: Pair, start: Pair, dtype: str,
) -> Winograd | None:  # fmt: skip
    """Return how the transposed method gives dx of a convolution with these parameters, None where
    the convolution of dy with turned weights needs no more products, or direct sums are fewer."""
    if target.convolution == "direct" or taps not in ((3, 3), (5, 5)):
        return None
    m = 4 if taps == (3, 3) and max(output) > 4 else 2
    c = Winograd(m, taps[0], channels, results, image, output, start, dtype)
    other = turned(c)._replace(output=image, image=output)
    # The transposed method writes a canvas besides, so it must save a fifth of the tiles.
    fewer = 5 * prod(c.grid) <= 4 * prod(other.grid)
    if not (fewer and reaches(c)):
        return None
    lanes = target.lanes("float32")
    x, y = (-(-n // lanes) for n in (channels, results))
    products = prod(c.grid) * c.positions * (results * x + TRANSFORM * (x + y))
    pays = products < prod(image) * c.taps**2 * results * x and images * prod(c.grid) >= TILES
    return c if pays or target.convolution == "winograd" else None


def _whole(size: int, most: int) -> int:
    """Return the number in (most / 2, most] with the least padding of `size` to its multiple."""
    most = min(size, most)
    return min(range(most, most // 2, -1), key=lambda n: padded(size, n))


def blocks(target: Target, c: Winograd, images: int, gradient: bool = False) -> BlockShape:
    """Return good blocks for a convolution, or for the gradient of its weights: small ones, but
    where the weights exceed the cache, large ones, since each block reads them all."""
    lanes, (rows, columns) = target.lanes("float32"), c.grid
    x, y = padded(c.channels, lanes), padded(c.results, lanes)
    if 4 * c.positions * c.channels * y > CACHE:
        tiles = 128
    else:
        fewest, most = (32, 64) if gradient else (16, 32)
        tiles = max(fewest, min(most, PLANES // (4 * c.positions * (x + y))))
    # Whole images where several fit; else rows of tiles, in parts of nearly one size.
    some = max(1, min(images, tiles // (rows * columns)))
    parts = 1 if some > 1 else -(-rows // max(1, tiles // columns))
    high = -(-rows // parts)
    vectors = min(2, y // lanes)
    # Registers for sums, beside a row of factors, a broadcast number and one to spare.
    room = min(16, target.registers - 2 - vectors)
    most = room // vectors
    size = c.channels if gradient else some * high * columns
    unroll = 2 if gradient else 4
    return target.vary(BlockShape(some, high, _whole(size, most), vectors, unroll))


class Planes:
    """Memory for both planes of a kernel, shared by all kernels of a thread, so that it stays in
    the cache."""

    def __init__(self, both: tuple[Plane, Plane], positions: int) -> None:
        self.sizes = [positions * plane.apart for plane in both]

    def addresses(self) -> tuple[int, int]:
        """Return the addresses of both planes, in this thread."""
        cached = vars(_shared)
        start = address(memory.lasting("memory", sum(self.sizes), FLOAT32, cached))
        return start, start + 4 * self.sizes[0]


def zeros(*borders: Border) -> Scratch:
    """Return a row of zeros, which stands for rows that images do not have."""
    return Scratch(max(b.image[1] * b.channels for b in borders), "float32")


def _bytes(c: Winograd) -> tuple[int, int]:
    """Return the bytes of an image of x, and of y."""
    size = np.dtype(c.dtype).itemsize
    return size * prod(c.image) * c.channels, size * prod(c.output) * c.results


Ends = tuple[int, ...]  # addresses of images, weights, spread ones and results


def _plan(
    macs: int,
    spread: Callable[[int, int], None],
    shape: tuple[int, ...],
    steps: tuple[int, int],
    some: Callable[[Ends, list[int], int, int], None],
) -> WinogradPlan:
    """Return the plan that spreads weights to an array of that shape, once, and then works on some
    images of so many bytes, for read ones and written ones: `some(ends, more, count, worker)`."""

    def begin(x: NDArray, w: NDArray, bias: list[NDArray], y: NDArray, tail: Following) -> Work:
        # Before the threads start: all of them read the transformed weights.
        u = memory.empty(shape, FLOAT32)
        spread(address(w), address(u))

        def work(first: int, count: int, worker: int) -> None:
            filters = address(w), address(u)
            ends = address(x) + first * steps[0], *filters, address(y) + first * steps[1]
            some(ends, [*map(address, bias), *tail(first)], count, worker)

        return work

    return WinogradPlan(macs, begin)


def forward(
    target: Target, c: Winograd, images: int, turned: bool = False, biased: bool = False,
    epilogue: Epilogue = NOTHING,
) -> WinogradPlan:  # fmt: skip
    """Return `begin(x, w, b, y, tail)` for images (N, H, W, C), weights (M, C, R, R) and one bias
    (M,) or none, or for the gradient of x, `turned`: weights (C, M, R, R) with the taps in opposite
    order; `tail` gives the addresses that the epilogue takes."""
    b = blocks(target, c, images)
    function = build(convolve, target, c, b, turned, biased, epilogue)
    spread = build(spread_weights, target, c, turned, turned)
    both, row = planes(target, c, b), zeros(c.border)
    scratch = Planes(both, c.positions)
    shape = (c.positions, factors(target, c).apart)

    def some(ends: Ends, more: list[int], count: int, worker: int) -> None:
        own = row.address(worker), *scratch.addresses()
        function(*ends, *own, *more, count)

    return _plan(c.macs * images, spread, shape, _bytes(c), some)


def backward(
    target: Target, c: Winograd, images: int, epilogue: Epilogue = NOTHING
) -> WinogradPlan:
    """Return `begin(dy, w, [], dx, tail)` for the gradient of x of a convolution, from dy (N, E, F,
    M) and weights (M, C, R, R), by the transposed method."""
    back = turned(c)
    b = blocks(target, back, images)
    function = build(convolve_back, target, c, b, epilogue)
    spread = build(spread_weights, target, back, True, False)
    both, row = planes(target, back, b), zeros(c.tops)
    scratch = Planes(both, c.positions)
    sums = Scratch(canvas(c, both[1])[0] * b.images, "float32")
    shape = (c.positions, factors(target, back).apart)

    def some(ends: Ends, more: list[int], count: int, worker: int) -> None:
        own = row.address(worker), *scratch.addresses(), sums.address(worker)
        function(*ends, *own, *more, count)

    return _plan(c.macs * images, spread, shape, _bytes(c)[::-1], some)


def weights(target: Target, c: Winograd, images: int) -> Callable[[NDArray, NDArray], NDArray]:
    """Return `run(x, dy)`, which gives dw (M, C, R, R), in float32, from x (N, H, W, C) and dy (N,
    E, F, M)."""
    b = blocks(target, c, images, gradient=True)
    both = planes(target, c, b)
    work = images * prod(c.grid) * c.positions * c.channels * c.results
    shape = (c.positions, factors(target, c).apart)
    parts = parts_of(work, images, FOLD * prod(shape))
    function = build(convolve_weights, target, c, b)
    collect = build(collect_weights, target, c, parts)
    row = zeros(c.border, c.tops)
    scratch = Planes(both, c.positions)
    (image, top), sums = _bytes(c), 4 * prod(shape)

    def run(x: NDArray, dy: NDArray) -> NDArray:
        u = memory.empty((parts, *shape), FLOAT32)

        def one(part: int, first: int, count: int, worker: int) -> None:
            ends = address(x) + first * image, address(u) + part * sums
            own = address(dy) + first * top, row.address(worker)
            function(*ends, *own, *scratch.addresses(), count)

        in_parts(images, parts, one)
        dw = memory.empty((c.results, c.channels, c.taps, c.taps), FLOAT32)
        whole = address(x), address(dy), row.address(0)
        collect(address(u), address(dw), *whole, images)
        return dw

    return run
