"""NumPy's arithmetic of convolution, on channels-last images x (N, H, W, C).

The values that windows cover are copied block by block and multiplied by BLAS. Whole patches
(im2col) repeat each pixel once for every tap. Stripes, one row of taps of every window, repeat it
only for the taps of that row: the next row of the filters meets the next stripes, and the products
of the rows are added up.

Blocks are cut by shapes alone, and threads share them: results are the same bits for any number of
threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..array import NDArray
from ..summation import sum_over
from ..threads import WORTHWHILE, share
from .scratch import scratch
from .windows import ImageBlock, Pair, Windows, blocks, region, tap_views

# OpenBLAS does products of up to 100^3 multiply-accumulates without packing its operands first:
# with 16 to 64 columns this takes a third to a half off the time.
SMALL = 100**3
SHORT = 12  # numbers that lie together in a patch: below this, copies of single runs are slow
LONG = 24  # numbers in a stripe's window: below this, products of single rows are slow
PARTS = 8  # sums of a weight gradient that threads can make side by side
MIN_WINDOWS = 2048  # windows for each of these sums at least: their addition must not cost much


def _parts(groups: int, c: int, m: int) -> Iterator[tuple[slice, slice]]:
    """Yield, for each group, the slice of its channels and that of its results."""
    for g in range(groups):
        yield slice(g * c, (g + 1) * c), slice(g * m, (g + 1) * m)


def _each(cut: list[ImageBlock], macs: int, work: Callable[[ImageBlock], None]) -> None:
    """Do a piece of work for each block, shared by all threads where the MACs pay for waking
    them."""

    def some(first: int, last: int, worker: int = 0) -> None:
        for block in cut[first:last]:
            work(block)

    if macs >= WORTHWHILE:
        share(len(cut), some)
    else:
        some(0, len(cut))


def _matrix(a: NDArray) -> NDArray | None:
    """Return images (N, H, W, C) as a matrix (pixels, channels), or None where that would need a
    copy."""
    (n, h, w, c), (image, row, pixel, each) = a.shape, a.strides
    if (h == 1 or row == w * pixel) and (n == 1 or image == h * w * pixel):
        return as_strided(a, (n * h * w, c), (pixel, each))
    return None


def _patches(part: NDArray, windows: Windows, grid: Pair) -> NDArray:
    """Return what the windows of a region cover as a matrix (windows, taps x channels).

    It is a copy in scratch memory, except for windows of one pixel that lie side by side."""
    (r, s), (u, v), _, (p, q) = windows
    n, _, _, c = part.shape
    sn, sh, sw, sc = part.strides
    if r == s == 1 and sc == part.itemsize:
        matrix = _matrix(part[:, ::u, ::v])
        if matrix is not None:
            return matrix
    view = as_strided(
        part, (n, *grid, r, s, c), (sn, sh * u, sw * v, sh * p, sw * q, sc), writeable=False
    )
    # Runs of s c numbers are too short for fast copies; runs along an image row are longer.
    if s * c < SHORT:  # copied along image rows instead: BLAS takes either order
        patches = scratch("patches", (r, s, c, n, *grid), part.dtype)
        np.copyto(patches, view.transpose(3, 4, 5, 0, 1, 2))
        return patches.reshape(r * s * c, -1).T
    patches = scratch("patches", view.shape, part.dtype)
    np.copyto(patches, view)
    return patches.reshape(-1, r * s * c)


def _stripes(part: NDArray, windows: Windows, grid: Pair) -> Iterator[NDArray]:
    """Yield, for each row of taps, what all windows of a region have there, as a matrix.

    Rows are (rows of windows, images, columns of windows), columns (taps of the row, channels). The
    vertical stride must be 1: consecutive rows of taps are then the same memory, shifted."""
    (r, s), (_, v), _, (p, q) = windows
    n, h, _, c = part.shape
    sn, sh, sw, sc = part.strides
    f = grid[1]
    view = as_strided(part, (h, n, f, s, c), (sh, sn, sw * v, sw * q, sc), writeable=False)
    stripes = scratch("patches", view.shape, part.dtype)
    np.copyto(stripes, view)
    rows = stripes.reshape(h, n * f, s * c)
    for i in range(0, r * p, p):
        yield rows[i : i + grid[0]].reshape(-1, s * c)


def _striped(taps: Pair, stride: Pair, channels: int) -> bool:
    """Tell whether stripes beat patches: several rows of taps at vertical stride 1, long enough
    rows."""
    return taps[0] > 1 == stride[0] and taps[1] * channels >= LONG


def _blocks(
    windows: Windows, grid: Pair, n: int, c: int, m: int, itemsize: int
) -> list[ImageBlock]:
    """Cut n images into blocks whose patches or stripes stay in cache."""
    (r, s), _, _, _ = windows
    if _striped(windows.taps, windows.stride, c):
        return [*blocks(n, grid[0], grid[1] * (s * c + c + 2 * m) * itemsize)]
    return [*blocks(n, grid[0], grid[1] * (r * s * c + m) * itemsize)]


class Cut(NamedTuple):
    """A matrix cut along its rows: a stack of equal pieces, and the rows that are left."""

    pieces: NDArray
    remainder: NDArray


def _cut(a: NDArray, rows: int) -> Cut:
    whole = len(a) // rows * rows
    return Cut(a[:whole].reshape(-1, rows, a.shape[1]), a[whole:])


def _multiply(a: NDArray, b: NDArray, y: NDArray) -> None:
    """Write the product a b to y, for matrices with many rows."""
    # Pieces small enough for BLAS's path without packing; fewer than 24 rows would not pay for a
    # call.
    rows = SMALL // b.size if b.size else 0
    if rows < 24 or len(a) <= rows:
        np.matmul(a, b, out=y)
        return
    tops, ends = _cut(a, rows), _cut(y, rows)
    np.matmul(tops.pieces, b, out=ends.pieces)
    np.matmul(tops.remainder, b, out=ends.remainder)


def _contract(a: NDArray, b: NDArray, y: NDArray) -> None:
    """Add the product a^T b to y: a sum over the many rows of both.

    Sums of pieces are added pairwise (`sum_over`), which keeps rounding errors small."""
    rows = min(SMALL // y.size if y.size else 0, 256)
    if rows < 64 or len(a) <= rows:
        y += np.matmul(a.T, b, out=scratch("product", y.shape, y.dtype))
        return
    tops, ends = _cut(a, rows), _cut(b, rows)
    sums = scratch("product", (len(tops.pieces) + 1, *y.shape), y.dtype)
    np.matmul(tops.pieces.transpose(0, 2, 1), ends.pieces, out=sums[:-1])
    np.matmul(tops.remainder.T, ends.remainder, out=sums[-1])
    y += sum_over(sums, (0,))


def correlate(x: NDArray, w: NDArray, windows: Windows, groups: int, y: NDArray) -> None:
    """Write the cross-correlation of x (N, H, W, C) with w (R, S, C/groups, M) to y (N, E, F,
    M)."""
    if not w.size:  # nothing to add up, or no results
        y[...] = 0
        return
    r, s, c, m = (*w.shape[:3], w.shape[3] // groups)
    if c == m == 1 < groups:
        return _correlate_each(x, w, windows, y)
    n, e, f, _ = y.shape
    parts = [
        (channels, results, np.ascontiguousarray(w[..., results]).reshape(r, s * c, m))
        for channels, results in _parts(groups, c, m)
    ]
    write = _correlate_stripes if _striped(windows.taps, windows.stride, c) else _correlate_patches

    def work(block: ImageBlock) -> None:
        images, a, b = block
        for channels, results, filters in parts:
            part = region(x[images, ..., channels], windows, (a, b), f, 0)
            write(part, filters, windows, y[images, a:b, :, results])

    cut = _blocks(windows, (e, f), n, c, m, x.itemsize)
    _each(cut, y.size * r * s * c, work)


def _correlate_patches(part: NDArray, w: NDArray, windows: Windows, y: NDArray) -> None:
    """Write the correlation of a region with w (R, S C, M) to y (N, E, F, M), by one product."""
    m = w.shape[2]
    patches = _patches(part, windows, y.shape[1:3])
    plain = _matrix(y)
    if plain is not None:
        _multiply(patches, w.reshape(-1, m), plain)
    else:
        product = scratch("product", (len(patches), m), y.dtype)
        _multiply(patches, w.reshape(-1, m), product)
        y[...] = product.reshape(y.shape)


def _correlate_stripes(part: NDArray, w: NDArray, windows: Windows, y: NDArray) -> None:
    """Write the same correlation as a sum of R products, one for each row of the filters."""
    n, e, f, m = y.shape
    total = scratch("total", (e * n * f, m), y.dtype)
    product = scratch("product", total.shape, y.dtype)
    last = len(w) - 1
    for i, stripe in enumerate(_stripes(part, windows, (e, f))):
        _multiply(stripe, w[i], product if i else total)
        if 0 < i < last:
            total += product
    images = (e, n, f, m)
    # The last row of filters is added while the sums are written to y: one pass over memory less.
    target = y.transpose(1, 0, 2, 3)
    np.add(total.reshape(images), product.reshape(images), out=target)


def _correlate_each(x: NDArray, w: NDArray, windows: Windows, y: NDArray) -> None:
    """Write the depthwise correlation: each channel of x (N, H, W, C) with its own filter (R, S, 1,
    C)."""
    filters = w.reshape(-1, w.shape[3])
    n, e, f, c = y.shape

    def work(block: ImageBlock) -> None:
        images, a, b = block
        part, total = region(x[images], windows, (a, b), f, 0), y[images, a:b]
        product = scratch("product", total.shape, y.dtype)
        for tap, view in enumerate(tap_views(part, windows, (b - a, f))):
            np.multiply(view, filters[tap], out=product if tap else total)
            if tap:
                total += product

    _each([*blocks(n, e, y.itemsize * f * c)], y.size * len(filters), work)


def spread(dy: NDArray, w: NDArray, windows: Windows, groups: int, dx: NDArray) -> None:
    """Write the transposed correlation of dy (N, E, F, M) with w (M, C/groups, R, S) to dx (N, H,
    W, C).

    There are two ways: gather for each pixel what reaches it, or scatter each gradient over its
    window."""
    if not w.size:
        dx[...] = 0
        return
    covered = dy.shape[1] * dy.shape[2] * windows.stride[0] * windows.stride[1]
    depthwise = w.shape[1] == 1 < groups == w.shape[0]
    # `_scatter` writes into an enlarged image and crops it, which a negative border does not allow.
    fits = min(windows.lead) >= 0 and not depthwise
    # Scattering does only the multiplications that reach a window; gathering does those of every
    # pixel, but writes each pixel once.
    write = _scatter if fits and 4 * covered < 3 * dx.shape[1] * dx.shape[2] else _gather
    write(dy, w, windows, groups, dx)


def _gather(dy: NDArray, w: NDArray, windows: Windows, groups: int, dx: NDArray) -> None:
    """Write the transposed correlation as ordinary correlations of stride 1.

    The pixels of dx with one remainder modulo the stride see dy through every p-th tap, reversed.
    The stride^2 remainders together cover dx, so no element is written twice."""
    m, c, r, s = w.shape
    # In `correlate` the roles are fixed: contracted channels in front, results behind.
    # (M, C/groups, R, S) to (R, S, M/groups, C): the roles of channels and results are exchanged.
    grouped = w.reshape(groups, m // groups, c, r, s).transpose(3, 4, 1, 0, 2)
    flipped = grouped.reshape(r, s, m // groups, groups * c)
    for a in range(min(windows.stride[0], dx.shape[1])):
        for b in range(min(windows.stride[1], dx.shape[2])):
            part = dx[:, a :: windows.stride[0], b :: windows.stride[1]]
            # Pixels whose phase no tap reaches (stride above the window) get no gradient at all.
            (i, high, top, p), (j, wide, left, q) = (
                _phase(phase, axis, windows) for axis, phase in enumerate((a, b))
            )
            if high and wide:
                chosen = flipped[i :: p[0], j :: q[0]][::-1, ::-1]
                dense = Windows((high, wide), (1, 1), (top, left), (p[1], q[1]))
                correlate(dy, chosen, dense, groups, part)
            else:
                part[...] = 0


def _phase(phase: int, axis: int, windows: Windows) -> tuple[int, int, int, Pair]:
    """Return which taps reach the pixels of one remainder along an axis.

    They are given by the first tap, their number, how far before dy they start, and their distance
    among the taps and in dy."""
    taps, stride = windows.taps[axis], windows.stride[axis]
    lead, dilation = windows.lead[axis], windows.dilation[axis]
    step, apart = stride // gcd(stride, dilation), dilation // gcd(stride, dilation)
    firsts = [i for i in range(min(step, taps)) if (phase + lead - i * dilation) % stride == 0]
    if not firsts:
        return 0, 0, 0, (step, apart)
    count = len(range(firsts[0], taps, step))
    start = (phase + lead - firsts[0] * dilation) // stride
    return firsts[0], count, (count - 1) * apart - start, (step, apart)


def _scatter(dy: NDArray, w: NDArray, windows: Windows, groups: int, dx: NDArray) -> None:
    """Write the transposed correlation tap by tap.

    This is less work than `_gather` where the image is much larger than what its windows cover."""
    (n, e, f, m), (r, s), (top, left) = dy.shape, windows.taps, windows.lead
    (u, v), (p, q), (_, h, k, c) = windows.stride, windows.dilation, dx.shape
    high = max((e - 1) * u + p * (r - 1) + 1, top + h)
    wide = max((f - 1) * v + q * (s - 1) + 1, left + k)
    each = w.transpose(2, 3, 0, 1).reshape(r * s, *w.shape[:2])

    def work(block: ImageBlock) -> None:
        images = block.images
        total = scratch("region", (len(dx[images]), high, wide, c), dx.dtype)
        total[...] = 0
        for channels, results in _parts(groups, w.shape[1], m // groups):
            tops = dy[images, :, :, results].reshape(-1, m // groups)
            product = scratch("product", (len(tops), w.shape[1]), dx.dtype)
            for tap, view in enumerate(tap_views(total[..., channels], windows, (e, f))):
                _multiply(tops, each[tap, results], product)
                view += product.reshape(view.shape)
        dx[images] = total[:, top : top + h, left : left + k]

    size = 2 * (high * wide * c + e * f * (m + c)) * dx.itemsize
    _each([*blocks(n, 1, size)], dy.size * w[0].size, work)


def weigh(x: NDArray, dy: NDArray, windows: Windows, groups: int, dw: NDArray) -> None:
    """Write the gradient of the filters to dw (R, S, C/groups, M).

    The images are cut into up to PARTS parts by shape alone. Each part has a sum of its own, and
    the sums are added in order, so the result does not depend on the number of threads."""
    if not dw.size:
        return
    n, e, f, m = dy.shape
    c, outputs = dw.shape[2], n * e * f
    add = _weigh_each if c == 1 < groups == m else _weigh_block
    if add is _weigh_each:
        cut = [*blocks(n, e, f * m * dw.itemsize)]
    else:
        cut = _blocks(windows, (e, f), n, c, m // groups, dw.itemsize)
    # The number of sums follows from shapes, not from threads, or the order of additions would
    # change.
    count = max(1, min(PARTS, len(cut), outputs * dw.size // WORTHWHILE, outputs // MIN_WINDOWS))
    sums = np.zeros((count, *dw.shape), dw.dtype)

    def some(first: int, last: int, worker: int = 0) -> None:
        for part in range(first, last):
            for block in cut[len(cut) * part // count : len(cut) * (part + 1) // count]:
                add(x, dy, windows, groups, block, sums[part])

    if outputs * dw.size >= WORTHWHILE:
        share(count, some)
    else:
        some(0, count)
    dw[...] = sums[0]
    for part in sums[1:]:
        dw += part


def _weigh_block(
    x: NDArray, dy: NDArray, windows: Windows, groups: int, block: ImageBlock, dw: NDArray
) -> None:
    """Add the contribution of one block to dw (R, S, C/groups, M)."""
    (images, a, b), grid = block, (block.last - block.first, dy.shape[2])
    _, s, c, filters = dw.shape
    m = filters // groups
    for channels, results in _parts(groups, c, m):
        part = region(x[images, ..., channels], windows, (a, b), grid[1], 0)
        tops, total = dy[images, a:b, :, results], dw[..., results]
        if _striped(windows.taps, windows.stride, c):
            turned = scratch("total", (grid[0], len(tops), grid[1], m), dy.dtype)
            np.copyto(turned, tops.transpose(1, 0, 2, 3))
            for i, stripe in enumerate(_stripes(part, windows, grid)):
                _contract(stripe, turned.reshape(-1, m), total[i].reshape(s * c, m))
        else:
            plain = _matrix(tops)
            tops = tops.reshape(-1, m) if plain is None else plain
            _contract(_patches(part, windows, grid), tops, total.reshape(-1, m))


def _weigh_each(
    x: NDArray, dy: NDArray, windows: Windows, groups: int, block: ImageBlock, dw: NDArray
) -> None:
    """Add the contribution of one block to the depthwise dw (R, S, 1, C)."""
    images, a, b = block
    part = region(x[images], windows, (a, b), dy.shape[2], 0)
    tops, each = dy[images, a:b], dw.reshape(-1, groups)
    product = scratch("product", tops.shape, dy.dtype)
    for tap, view in enumerate(tap_views(part, windows, (b - a, dy.shape[2]))):
        np.multiply(view, tops, out=product)
        each[tap] += sum_over(product.reshape(-1, groups), (0,))
