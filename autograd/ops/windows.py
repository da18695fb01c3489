"""How windows lie over images (N, H, W, C), and the views and blocks that convolution and pooling
share.

A tap is one position within a window. The values of one tap in all windows form a strided view of
the image, so a loop over taps replaces a loop over pixels. Work is cut into blocks whose copies
stay in the second-level cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from ..array import NDArray
from .scratch import scratch

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]
Slices: TypeAlias = tuple[slice, slice]

# Copies of one block: smaller ones would cost more calls, larger ones leave the second-level cache.
BLOCK_BYTES = 1 << 21


class Windows(NamedTuple):
    """How windows lie over an image, as (vertical, horizontal) pairs.

    `taps`: the window's extent; `stride`: the distance of neighbouring windows; `lead`: how far
    before the image the first window starts (top and left padding); `dilation`: the distance of
    neighbouring taps."""

    taps: Pair
    stride: Pair
    lead: Pair
    dilation: Pair


def extents(
    name: str, size: Pair, taps: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Pair:
    """Return how many windows fit each axis: floor((size + padding - reach) / stride) + 1.

    The reach of a window is dilation (taps - 1) + 1. ValueError, which names the operation, where
    none fits or an attribute is below 1."""
    if min(*stride, *dilation, *taps) < 1:
        raise ValueError(
            f"{name}: expected stride, dilation and kernel of at least 1, got {stride}, {dilation} "
            f"and {taps}"
        )
    reach = [d * (r - 1) + 1 for d, r in zip(dilation, taps, strict=True)]
    padded = [n + a + b for n, (a, b) in zip(size, padding, strict=True)]
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise ValueError(
            f"{name}: expected a padded input of at least {tuple(reach)} for kernel {taps} with "
            f"dilation {dilation}, got {tuple(padded)}"
        )
    e, f = ((n - r) // s + 1 for n, r, s in zip(padded, reach, stride, strict=True))
    return e, f


class ImageBlock(NamedTuple):
    """Some images, and of these the rows of windows from `first` up to `last`, not including it."""

    images: slice
    first: int
    last: int


def blocks(n: int, e: int, row_bytes: int) -> Iterator[ImageBlock]:
    """Cut n images of e rows of windows into blocks of about BLOCK_BYTES.

    `row_bytes` is what one row of windows of one image takes. A block is several whole images or
    several rows of one image, so that every block is a plain slice."""
    if e * row_bytes > BLOCK_BYTES:
        step = max(1, BLOCK_BYTES // row_bytes)
        for i in range(n):
            for a in range(0, e, step):
                yield ImageBlock(slice(i, i + 1), a, min(a + step, e))
    else:
        count = max(1, BLOCK_BYTES // max(1, e * row_bytes))
        for i in range(0, n, count):
            yield ImageBlock(slice(i, min(i + count, n)), 0, e)


def _span(size: int, start: int, stop: int) -> tuple[int, int]:
    """Return which of the positions start:stop lie within 0:size, counted from start."""
    first = min(max(-start, 0), stop - start)
    return first, max(first, min(size - start, stop - start))


def region(x: NDArray, windows: Windows, rows: Pair, columns: int, border: float) -> NDArray:
    """Return the part of x (N, H, W, C) that some rows of windows cover.

    It is a view where it lies within x, else a copy in scratch memory with `border` around it,
    valid until the next call."""
    (r, s), (u, v), (top, left), (p, q) = windows
    h = (rows[0] * u - top, (rows[1] - 1) * u + p * (r - 1) + 1 - top)
    w = (-left, (columns - 1) * v + q * (s - 1) + 1 - left)
    if h[0] >= 0 and w[0] >= 0 and h[1] <= x.shape[1] and w[1] <= x.shape[2]:
        return x[:, h[0] : h[1], w[0] : w[1]]
    y = scratch("region", (x.shape[0], h[1] - h[0], w[1] - w[0], x.shape[3]), x.dtype)
    # Only the border is filled and only the inside is copied: each element is written once.
    a, b = _span(x.shape[1], *h)
    c, d = _span(x.shape[2], *w)
    edges = (y[:, :a], y[:, b:], y[:, a:b, :c], y[:, a:b, d:])
    for edge in edges:
        if edge.size:
            edge[...] = border
    y[:, a:b, c:d] = x[:, h[0] + a : h[0] + b, w[0] + c : w[0] + d]
    return y


def tap_views(part: NDArray, windows: Windows, grid: Pair) -> Iterator[NDArray]:
    """Yield, tap by tap, the values (N, E, F, C) that all windows of a region have at that tap, as
    views."""
    (r, s), (u, v), _, (p, q) = windows
    h, w = (grid[0] - 1) * u + 1, (grid[1] - 1) * v + 1
    for i in range(0, r * p, p):
        for j in range(0, s * q, q):
            yield part[:, i : i + h : u, j : j + w : v]


def _overlap(size: int, count: int, start: int, stride: int) -> Slices:
    """Return the windows of one axis whose tap lies in the image, and the pixels that they have
    there.

    The tap of the first of `count` windows is at `start`, which is negative in the padding."""
    first = max(0, -(start // stride))
    last = min(count - 1, (size - 1 - start) // stride)
    if last < first:
        return slice(0), slice(0)
    return slice(first, last + 1), slice(first * stride + start, last * stride + start + 1, stride)


def overlaps(
    size: tuple[int, ...], taps: tuple[int, ...], grid: tuple[int, ...], attrs: dict[str, Any]
) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yield each tap (i, j) with the windows whose tap lies within the image (H, W), and those
    pixels.

    Both are pairs of slices, of the grid of windows and of the image. `attrs` has stride, padding
    and dilation. Counting non-zero products skips the padding this way."""
    stride, padding, dilation = attrs["stride"], attrs["padding"], attrs["dilation"]
    each = [
        [
            _overlap(size[k], grid[k], i * dilation[k] - padding[k][0], stride[k])
            for i in range(taps[k])
        ]
        for k in (0, 1)
    ]
    for i, (rows, lines) in enumerate(each[0]):
        for j, (columns, pixels) in enumerate(each[1]):
            yield i, j, (rows, columns), (lines, pixels)
