"""When a convolution is done by Winograd's method, in which blocks, and on which memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from ...array import NDArray
from . import memory
from .border import Border, Pair
from .jit import build
from .layout import address
from .targets import Target
from .winograd import (
    Blocks,
    Plane,
    Winograd,
    collect_weights,
    convolve,
    convolve_weights,
    padded,
    planes,
    spread_weights,
)

CACHE = 1 << 20  # bytes of weights that stay in the second-level cache
PLANES = 1 << 18  # bytes of transformed tiles that leave the first-level cache little to fetch
CHANNELS, TILES = 16, 32  # fewer are not worth the transforms

_shared = threading.local()


def find(
    target: Target, taps: Pair, channels: int, results: int, images: int, image: Pair,
    places: Pair, start: Pair,
) -> Winograd | None:  # fmt: skip
    """Return how Winograd's method does a convolution of stride 1, None where it is to be direct:
    parameters are those of `Winograd`."""
    if target.convolution == "direct" or taps not in ((3, 3), (5, 5)):
        return None
    m = 4 if taps == (3, 3) and max(places) > 4 else 2
    c = Winograd(m, taps[0], channels, results, image, places, start)
    pays = min(channels, results) >= CHANNELS and images * c.grid[0] * c.grid[1] >= TILES
    return c if pays or target.convolution == "winograd" else None


def _whole(size: int, most: int) -> int:
    """Return the number up to `most`, at least half of it, whose multiple exceeds `size` least."""
    most = min(size, most)
    return min(range(most, most // 2, -1), key=lambda n: padded(size, n))


def blocks(target: Target, c: Winograd, images: int, gradient: bool = False) -> Blocks:
    """Return good blocks for a convolution, or for the gradient of its weights: small ones, but
    where the weights exceed the cache, large ones, since each block reads them all."""
    lanes, (rows, columns) = target.lanes("float32"), c.grid
    x, y = padded(c.channels, lanes), padded(c.results, lanes)
    if 4 * c.positions * c.channels * y > CACHE:
        tiles = 128
    else:
        fewest, most = (32, 64) if gradient else (16, 32)
        tiles = max(fewest, min(most, PLANES // (4 * c.positions * (x + y))))
    some = max(1, min(images, tiles // (rows * columns)))
    parts = 1 if some > 1 else -(-rows // max(1, tiles // columns))
    high = -(-rows // parts)
    vectors = min(2, y // lanes)
    room = 16 if target.registers == 32 else target.registers - 2 - vectors
    most = room // vectors
    size = c.channels if gradient else some * high * columns
    return Blocks(some, high, _whole(size, most), vectors, 2 if gradient else 4)


class Scratch:
    """Memory of a kernel: images with borders, which are zero, of its own; planes that are shared
    with all kernels of a thread, so that they stay in the cache."""

    def __init__(self, both: tuple[Plane, Plane], positions: int) -> None:
        self.sizes = [positions * plane.apart for plane in both]

    def planes(self) -> tuple[int, int]:
        """Return the addresses of both planes."""
        whole = sum(self.sizes)
        held = getattr(_shared, "memory", None)
        if held is None or held.size < whole:
            held = _shared.memory = memory.empty((whole,), np.dtype(np.float32))
            held[...] = 0
        start = address(held)
        return start, start + 4 * self.sizes[0]


def bordered(border: Border, images: int) -> NDArray:
    """Return zeros for so many images with borders."""
    return np.zeros(max(1, border.elements * images), np.float32)


def forward(
    target: Target, c: Winograd, images: int, turned: bool = False, biased: bool = False
) -> Callable[[NDArray, NDArray, list[NDArray], NDArray], None]:
    """Return `run(x, w, b, y)` for images (N, H, W, C), weights (M, C, R, R) and one bias (M,) or
    none, or for the gradient of x, `turned`: weights (C, M, R, R) with the taps in opposite
    order."""
    b = blocks(target, c, images)
    function = build(convolve, target, c, b, biased)
    spread = build(spread_weights, target, c, turned)
    both, border = planes(target, c, b), bordered(c.border, b.images)
    scratch = Scratch(both, c.positions)
    shape = (c.positions, c.channels, both[1].width)

    def run(x: NDArray, w: NDArray, b: list[NDArray], y: NDArray) -> None:
        u = memory.empty(shape, w.dtype)
        spread(address(w), address(u))
        ends = [address(a) for a in (x, u, y, border)]
        function(*ends, *scratch.planes(), *map(address, b), images)

    return run


def weights(
    target: Target, c: Winograd, images: int
) -> Callable[[NDArray, NDArray], NDArray]:
    """Return `run(x, dy)`, which gives dw (M, C, R, R) for images (N, H, W, C)."""
    b = blocks(target, c, images, gradient=True)
    function, collect = build(convolve_weights, target, c, b), build(collect_weights, target, c)
    both = planes(target, c, b)
    borders = bordered(c.border, b.images), bordered(c.tops, b.images)
    scratch = Scratch(both, c.positions)
    shape = (c.positions, c.channels, both[1].width)

    def run(x: NDArray, dy: NDArray) -> NDArray:
        u = memory.empty(shape, x.dtype)
        u[...] = 0
        ends = [address(a) for a in (x, u, dy, *borders)]
        function(*ends, *scratch.planes(), images)
        dw = memory.empty((c.results, c.channels, c.taps, c.taps), x.dtype)
        collect(address(u), address(dw))
        return dw

    return run
