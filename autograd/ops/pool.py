"""Pooling of images (N, C, H, W) to (N, C, E, F): the largest value or the mean of each window.

Attributes are (vertical, horizontal) pairs; padding is ((top, bottom), (left, right)). Bottom and
right padding may exceed top and left, to complete windows that begin inside the image: that excess
never wins a maximum and does not count in a mean. Arrays lie channels-last in memory, so that one
tap of all windows is a strided view whose innermost axis is contiguous.

Internally an argmax is the number of a tap within its window, counted row by row; positions in the
image, as torch returns them, are derived from it on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf, prod
from typing import Any, TypeAlias

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import INT64, KERNEL_TYPES
from ..ledger import Cost
from ..primitive import Value, primitive
from ..summation import BLOCK
from .scratch import scratch
from .windows import Padding, Pair, Windows, blocks, extents, region, tap_views

Write: TypeAlias = Callable[[NDArray, slice, bool], None]


def check_images(name: str, x: Spec) -> None:
    """Raise TypeError or ValueError for what is not a batch of images.

    Images have the shape (N, C, H, W) and one of the types that convolution and pooling compute in.
    """
    if x.dtype not in KERNEL_TYPES:
        raise TypeError(
            f"{name}: expected one of {', '.join(map(str, KERNEL_TYPES))}, got {x.dtype}"
        )
    if len(x.shape) != 4:
        raise ValueError(f"{name}: expected 4 axes (N, C, H, W), got shape {x.shape}")


def _pooled(
    name: str, x: Spec, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[int, ...]:
    """Return the shape (N, C, E, F) of pooled images."""
    check_images(name, x)
    size = (x.shape[2], x.shape[3])
    return (*x.shape[:2], *extents(name, size, kernel, stride, padding, dilation))


def _expect(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """ValueError for a gradient dy of another shape than the result's."""
    if got != expected:
        raise ValueError(f"{name}: expected dy of shape {expected}, got {got}")


def _max_rule(
    x: Spec, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Spec, Spec]:
    """Shape rule of max_pool2d: the maxima, and an argmax in the smallest type that can hold it."""
    shape = _pooled("max_pool2d", x, kernel, stride, padding, dilation)
    return Spec(shape, x.dtype), Spec(shape, np.min_scalar_type(kernel[0] * kernel[1] - 1))


def _max_dx_rule(
    dy: Spec, argmax: Spec, *, size: Pair, kernel: Pair, stride: Pair, padding: Padding,
    dilation: Pair,
) -> Spec:  # fmt: skip
    """Shape rule of max_pool2d_dx: the image."""
    x = Spec((*dy.shape[:2], *size), dy.dtype)
    shape = _pooled("max_pool2d_dx", x, kernel, stride, padding, dilation)
    _expect("max_pool2d_dx", dy.shape, shape)
    return x


def _max_cost(ys: tuple[Spec, Spec], x: Spec, *, kernel: Pair, **attrs: Any) -> Cost:
    """Cost rule of max_pool2d: a window of R S elements takes R S - 1 comparisons."""
    return Cost(cmp=(kernel[0] * kernel[1] - 1) * ys[0].size)


@primitive(infer=_max_rule, cost=_max_cost, outputs=("y", "argmax"))
def max_pool2d(
    x: NDArray, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[NDArray, NDArray]:
    """Return the largest value of each window and which tap of the window it came from.

    y (N, C, E, F) is not a number where the window holds one. argmax (N, C, E, F), in the smallest
    unsigned type that holds R S - 1, is the tap's number: the first of equal values, never one in
    the padding."""
    windows = Windows(kernel, stride, (padding[0][0], padding[1][0]), dilation)
    n, c, h, w = x.shape
    e, f = extents("max_pool2d", (h, w), kernel, stride, padding, dilation)
    y = np.empty((n, e, f, c), x.dtype)
    argmax = np.empty((n, e, f, c), np.min_scalar_type(kernel[0] * kernel[1] - 1))
    images = x.transpose(0, 2, 3, 1)
    for some, a, b in blocks(n, e, 2 * stride[0] * w * c * x.itemsize):
        part = region(images[some], windows, (a, b), f, -inf)
        best, index = y[some, a:b], argmax[some, a:b]
        _largest(part, windows, best, index)
        # Only then can a comparison have gone wrong: this keeps the common case free of the second
        # pass.
        if not np.isfinite(best).all():
            _correct_nonfinite(part, windows, _inside(windows, (h, w), (a, b), f), best, index)
    return y.transpose(0, 3, 1, 2), argmax.transpose(0, 3, 1, 2)


@max_pool2d.vjp("x")
def _(dy: Value, argmax: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return max_pool2d_dx(dy, argmax, size=specs[0].shape[2:], **attrs)


@primitive(infer=_max_dx_rule, cost=lambda dx, dy, argmax, **a: Cost(add=dy.size), outputs=("dx",))
def max_pool2d_dx(
    dy: NDArray,
    argmax: NDArray,
    *,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
) -> NDArray:
    """Return dx: each dy is added at the tap that `argmax` names.

    `size` is the (height, width) of the image. Overlapping windows that share a maximum add up."""
    windows = Windows(kernel, stride, (padding[0][0], padding[1][0]), dilation)
    # Gradients and winners by window, channels-last like the image that they are added to.
    tops, winners = dy.transpose(0, 2, 3, 1), argmax.transpose(0, 2, 3, 1)

    def write(part: NDArray, some: slice, tiled: bool) -> None:
        if not tiled:
            # From the last window to the first: a pixel adds up what its taps get in their order.
            index = _addresses(winners[some], part, windows).reshape(-1)[::-1]
            np.add.at(part.reshape(-1), index, tops[some].reshape(-1)[::-1])
            return
        chosen = scratch("chosen", winners[some].shape, np.dtype(bool))
        share = scratch("share", chosen.shape, dy.dtype)
        bits = np.dtype(f"i{dy.itemsize}")
        for tap, view in enumerate(tap_views(part, windows, tops.shape[1:3])):
            # Bits times 0 or 1: unlike a product of floats it keeps inf from becoming nan.
            np.equal(winners[some], argmax.dtype.type(tap), out=chosen)
            np.multiply(tops[some].view(bits), chosen.view(np.uint8), out=share.view(bits))
            view[...] = share

    return _scattered(tops.shape, dy.dtype, size, windows, write)


@max_pool2d_dx.vjp("dy")
def _(ddx: Value, argmax: Value, size: Pair, **attrs: Any) -> Value:
    return max_pool2d_pick(ddx, argmax, **attrs)


@primitive(
    infer=lambda ddx, argmax, **a: Spec(argmax.shape, ddx.dtype),
    cost=lambda ddy, ddx, argmax, **a: Cost(),
    outputs=("ddy",),
)
def max_pool2d_pick(
    ddx: NDArray, argmax: NDArray, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> NDArray:
    """Return ddy: the elements of ddx at the taps that `argmax` names.

    This is `max_pool2d_dx` transposed, which is linear in dy, so it is also its second derivative.
    """
    windows = Windows(kernel, stride, (padding[0][0], padding[1][0]), dilation)
    n, c, e, f = argmax.shape
    ddy = np.zeros((n, e, f, c), ddx.dtype)
    images, winners = ddx.transpose(0, 2, 3, 1), argmax.transpose(0, 2, 3, 1)
    for some, a, b in blocks(n, e, 2 * stride[0] * ddx.shape[3] * c * ddx.itemsize):
        part = region(images[some], windows, (a, b), f, 0)
        for tap, view in enumerate(tap_views(part, windows, (b - a, f))):
            np.copyto(ddy[some, a:b], view, where=winners[some, a:b] == tap)
    return ddy.transpose(0, 3, 1, 2)


@max_pool2d_pick.vjp("ddx")
def _(dddy: Value, argmax: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return max_pool2d_dx(dddy, argmax, size=specs[0].shape[2:], **attrs)


def _avg_rule(
    x: Spec, *, kernel: Pair, stride: Pair, padding: Padding, counted: bool, divisor: int
) -> Spec:
    """Shape rule of avg_pool2d. ValueError for a negative divisor."""
    if divisor < 0:
        raise ValueError(f"avg_pool2d: expected a divisor above 0, or 0 for none, got {divisor}")
    return Spec(_pooled("avg_pool2d", x, kernel, stride, padding, (1, 1)), x.dtype)


def _avg_dx_rule(
    dy: Spec, *, size: Pair, kernel: Pair, stride: Pair, padding: Padding, counted: bool,
    divisor: int,
) -> Spec:  # fmt: skip
    """Shape rule of avg_pool2d_dx: the image."""
    x = Spec((*dy.shape[:2], *size), dy.dtype)
    shape = _pooled("avg_pool2d_dx", x, kernel, stride, padding, (1, 1))
    _expect("avg_pool2d_dx", dy.shape, shape)
    return x


@primitive(
    infer=_avg_rule,
    cost=lambda y, x, *, kernel, **a: Cost(add=(kernel[0] * kernel[1] - 1) * y.size, div=y.size),
)
def avg_pool2d(
    x: NDArray, *, kernel: Pair, stride: Pair, padding: Padding, counted: bool, divisor: int
) -> NDArray:
    """Return the sum of each window divided by its number of elements.

    Padding is 0 in the sum; it counts in the divisor if `counted`. A `divisor` other than 0
    replaces the number of elements."""
    windows = Windows(kernel, stride, (padding[0][0], padding[1][0]), (1, 1))
    n, c, h, w = x.shape
    e, f = extents("avg_pool2d", (h, w), kernel, stride, padding, (1, 1))
    y = np.empty((n, e, f, c), x.dtype)
    images, counts = x.transpose(0, 2, 3, 1), _counts(windows, (h, w), (e, f), counted, divisor)
    for some, a, b in blocks(n, e, 2 * stride[0] * w * c * x.itemsize):
        part, total = region(images[some], windows, (a, b), f, 0), y[some, a:b]
        _sum_taps(tap_views(part, windows, (b - a, f)), prod(kernel), total)
        total /= counts[a:b].astype(x.dtype)
    return y.transpose(0, 3, 1, 2)


def _sum_taps(view: Iterator[NDArray], count: int, total: NDArray) -> None:
    """Write the sum of the next `count` taps to `total`.

    Many taps are added pairwise, so that rounding errors grow with the logarithm of their number.
    """
    if count <= BLOCK:
        total[...] = next(view)
        for part in islice(view, count - 1):
            total += part
        return
    _sum_taps(view, count // 2, total)
    second = np.empty_like(total)
    _sum_taps(view, count - count // 2, second)
    total += second


@avg_pool2d.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return avg_pool2d_dx(dy, size=specs[0].shape[2:], **attrs)


@primitive(
    infer=_avg_dx_rule,
    cost=lambda dx, dy, *, kernel, **a: Cost(add=kernel[0] * kernel[1] * dy.size, div=dy.size),
    outputs=("dx",),
)
def avg_pool2d_dx(
    dy: NDArray,
    *,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    counted: bool,
    divisor: int,
) -> NDArray:
    """Return dx: each dy, divided as in `avg_pool2d`, is added to every element of its window."""
    windows = Windows(kernel, stride, (padding[0][0], padding[1][0]), (1, 1))
    tops = dy.transpose(0, 2, 3, 1)
    counts = _counts(windows, size, (dy.shape[2], dy.shape[3]), counted, divisor)

    def write(part: NDArray, some: slice, tiled: bool) -> None:
        share = tops[some] / counts.astype(dy.dtype)
        for view in tap_views(part, windows, tops.shape[1:3]):
            if tiled:
                view[...] = share
            else:
                view += share

    return _scattered(tops.shape, dy.dtype, size, windows, write)


@avg_pool2d_dx.vjp("dy")
def _(ddx: Value, size: Pair, **attrs: Any) -> Value:
    return avg_pool2d(ddx, **attrs)


def _positions(
    argmax: Spec, *, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Spec:
    """Shape rule of max_pool2d_position."""
    return Spec(argmax.shape, INT64)


@primitive(infer=_positions, cost=lambda y, argmax, **a: Cost(), outputs=("position",))
def max_pool2d_position(
    argmax: NDArray, *, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> NDArray:
    """Return the position in the image, row by row (int64), of the taps that `argmax` names.

    This is what torch calls the indices of max pooling."""
    e, f = argmax.shape[2:]
    # From the tap to the pixel: dilation spaces the taps, stride and padding place the window.
    row, column = np.divmod(argmax.astype(INT64), kernel[1])
    row = row * dilation[0] + (np.arange(e) * stride[0] - padding[0][0])[:, None]
    column = column * dilation[1] + np.arange(f) * stride[1] - padding[1][0]
    return np.asarray(row * size[1] + column)


def _largest(part: NDArray, windows: Windows, best: NDArray, argmax: NDArray) -> None:
    """Write the largest value of each window to `best` and the tap that has it to `argmax`."""
    larger = scratch("larger", best.shape, np.dtype(bool))
    later = scratch("later", best.shape, argmax.dtype)
    for tap, view in enumerate(tap_views(part, windows, best.shape[1:3])):
        if tap:
            # Taps only grow: arithmetic on small integers is 50 times as fast as a masked copy.
            np.greater(view, best, out=larger)
            np.maximum(view, best, out=best)
            np.multiply(larger.view(np.uint8), argmax.dtype.type(tap), out=later)
            np.maximum(argmax, later, out=argmax)
        else:
            best[...], argmax[...] = view, 0


def _inside(windows: Windows, size: Pair, rows: Pair, columns: int) -> NDArray:
    """Return for each tap and window, (taps, E, F, 1), whether it lies within the image."""
    axes: list[NDArray] = []
    for i, offsets in enumerate((np.arange(*rows), np.arange(columns))):
        taps = np.arange(windows.taps[i])[:, None] * windows.dilation[i]
        at = offsets * windows.stride[i] - windows.lead[i] + taps
        axes.append((at >= 0) & (at < size[i]))
    grid = axes[0][:, None, :, None] & axes[1][None, :, None, :]
    return grid.reshape(-1, grid.shape[2], columns, 1)


def _correct_nonfinite(
    part: NDArray, windows: Windows, inside: NDArray, best: NDArray, argmax: NDArray
) -> None:
    """Correct the argmax where comparisons with `>` go wrong.

    Of NaNs the last tap counts, as in torch; where all values are -inf, the first tap that lies
    within the image, since the padding is -inf too."""
    lowest, open_ = best == -inf, np.ones(best.shape, bool)
    for tap, view in enumerate(tap_views(part, windows, best.shape[1:3])):
        argmax[np.isnan(view)] = tap
        first = lowest & open_ & inside[tap]
        argmax[first] = tap
        open_ &= ~first


def _counts(windows: Windows, size: Pair, grid: Pair, counted: bool, divisor: int) -> NDArray:
    """Return what the sum of each window is divided by, (E, F, 1)."""
    if divisor:
        return np.full((*grid, 1), divisor)
    axes = []
    for i in (0, 1):
        border = windows.lead[i] if counted else 0
        start = np.arange(grid[i]) * windows.stride[i] - windows.lead[i]
        stop = np.minimum(start + windows.taps[i], size[i] + border)
        axes.append(stop - np.maximum(start, -border))
    return np.asarray(np.maximum(axes[0][:, None, None] * axes[1][:, None], 1))


def _addresses(winners: NDArray, part: NDArray, windows: Windows) -> NDArray:
    """Return the flat index, into the memory of a region (N, H, W, C), of the winning tap of each
    window (N, E, F, C)."""
    (n, e, f, c), (_, high, wide, _) = winners.shape, part.shape
    rows, columns = np.indices(windows.taps)
    taps = (rows * windows.dilation[0] * wide + columns * windows.dilation[1]) * c
    index = scratch("index", winners.shape, INT64)
    np.take(taps.reshape(-1), winners, out=index, mode="clip")
    i, j = np.arange(e)[:, None] * windows.stride[0], np.arange(f) * windows.stride[1]
    # The three terms of the address: tap (above), window and channel, image (below).
    index += ((i * wide + j) * c)[:, :, None] + np.arange(c)
    index += (np.arange(n) * high * wide * c)[:, None, None, None]
    return index


def _scattered(
    shape: tuple[int, ...], dtype: np.dtype[Any], size: Pair, windows: Windows, write: Write
) -> NDArray:
    """Return an image gradient (N, C, H, W) to which the windows (N, E, F, C) contribute.

    `write(part, images, tiled)` adds the contributions of some images to part (N, H, W, C), which
    holds zeros. Where the windows tile the image exactly, nothing needs to be zeroed or added: part
    is unset then, and `write` stores."""
    n, e, f, c = shape
    (r, s), (u, v), (top, left), (p, q) = windows
    high, wide = (e - 1) * u + p * (r - 1) + 1, (f - 1) * v + q * (s - 1) + 1
    dx = np.empty((n, *size, c), dtype)
    within = not top and not left and high <= size[0] and wide <= size[1]
    # Tiles cover each pixel exactly once, so they may be stored instead of added.
    tiled = within and (u, v, p, q) == (r, s, 1, 1) and (high, wide) == size
    for some, _, _ in blocks(n, 1, 2 * high * wide * c * dtype.itemsize):
        part = dx[some]
        if not within:
            extent = (max(high, top + size[0]), max(wide, left + size[1]))
            part = scratch("region", (part.shape[0], *extent, c), dtype)
        if not tiled:
            part[...] = 0
        write(part, some, tiled)
        if not within:
            dx[some] = part[:, top : top + size[0], left : left + size[1]]
    return dx.transpose(0, 3, 1, 2)
