"""Convolution of images and its two gradients: three primitives that are each other's derivatives.

Shapes: images x (N, C, H, W), filters w (M, C/groups, R, S), results y (N, M, E, F). Attributes are
(vertical, horizontal) pairs; padding is ((top, bottom), (left, right)) and may be negative, which
cuts off. Results lie channels-last in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from threading import local
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .reduce import sum

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]

# Patches of one block: large enough for BLAS, small enough for the second-level cache.
BLOCK_BYTES = 1 << 20

_memory = local()


class Windows(NamedTuple):
    """How windows lie over an image, along both axes: taps of each, distance of neighbouring
    windows, how far before the image the first one starts, distance of neighbouring taps."""

    taps: Pair
    stride: Pair
    lead: Pair
    dilation: Pair


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    """Return unset memory that this thread uses again for the next request of that name: fresh
    memory would cost page faults."""
    size = int(np.prod(shape)) * dtype.itemsize
    held = getattr(_memory, name, None)
    if held is None or held.nbytes < size:
        held = np.empty(size, np.uint8)
        setattr(_memory, name, held)
    return held[:size].view(dtype).reshape(shape)


def extents(
    name: str, size: Pair, taps: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Pair:
    """Return how many windows fit each axis: floor((size + padding - reach) / stride) + 1, where
    reach is dilation (taps - 1) + 1. ValueError where none fits or an attribute is below 1."""
    if min(*stride, *dilation, *taps) < 1:
        raise ValueError(
            f"{name}: stride {stride}, dilation {dilation} and kernel {taps} must be at least 1"
        )
    reach = [d * (r - 1) + 1 for d, r in zip(dilation, taps, strict=True)]
    padded = [n + a + b for n, (a, b) in zip(size, padding, strict=True)]
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise ValueError(
            f"{name}: kernel {taps} with dilation {dilation} reaches over {tuple(reach)}, "
            f"the padded input is {tuple(padded)}"
        )
    e, f = ((n - r) // s + 1 for n, r, s in zip(padded, reach, stride, strict=True))
    return e, f


def _check(name: str, a: Spec, b: Spec) -> None:
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected two of float32 or of float64, got {a.dtype}, {b.dtype}")
    if len(a.shape) != 4 or len(b.shape) != 4:
        raise ValueError(f"{name}: expected two arrays of 4 axes, got {a.shape} and {b.shape}")


def _forward(
    x: Spec, w: Spec, *b: Spec, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Spec:
    _check("conv2d", x, w)
    for bias in b:
        if bias.dtype != w.dtype:
            raise TypeError(f"conv2d: bias of {bias.dtype}, expected {w.dtype}")
        if bias.shape != w.shape[:1]:
            raise ValueError(f"conv2d: bias of shape {bias.shape}, expected {w.shape[:1]}")
    m, c, *taps = w.shape
    if groups < 1 or m % groups:
        raise ValueError(f"conv2d: groups={groups} does not divide the {m} filters of {w.shape}")
    if x.shape[1] != c * groups:
        raise ValueError(
            f"conv2d: input has {x.shape[1]} channels, filter {w.shape} with groups={groups} "
            f"expects {c * groups}"
        )
    size = (x.shape[2], x.shape[3])
    e, f = extents("conv2d", size, (taps[0], taps[1]), stride, padding, dilation)
    return Spec((x.shape[0], m, e, f), x.dtype)


def _backward_data(dy: Spec, w: Spec, *, size: Pair, groups: int, **attrs: Any) -> Spec:
    _check("conv2d_dx", dy, w)
    x = Spec((dy.shape[0], w.shape[1] * groups, *size), dy.dtype)
    _matches("conv2d_dx", dy, _forward(x, w, groups=groups, **attrs))
    return x


def _backward_weights(x: Spec, dy: Spec, *, size: Pair, groups: int, **attrs: Any) -> Spec:
    _check("conv2d_dw", x, dy)
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"conv2d_dw: groups={groups} does not divide {x.shape[1]} channels")
    w = Spec((dy.shape[1], x.shape[1] // groups, *size), x.dtype)
    _matches("conv2d_dw", dy, _forward(x, w, groups=groups, **attrs))
    return w


def _matches(name: str, dy: Spec, y: Spec) -> None:
    if dy.shape != y.shape:
        raise ValueError(f"{name}: dy has shape {dy.shape}, the convolution gives {y.shape}")


def _macs(y: Spec, w: Spec) -> Cost:
    """M filters of C/groups R S taps at each of N E F places, border included (Sze et al. 2017)."""
    return Cost(macs=y.size * w.shape[1] * w.shape[2] * w.shape[3])


@primitive(
    infer=_forward, cost=lambda y, x, w, *b, **a: _macs(y, w)._replace(add=len(b) * y.size)
)
def conv2d(
    x: NDArray, w: NDArray, *b: NDArray, stride: Pair, padding: Padding, dilation: Pair,
    groups: int,
) -> NDArray:  # fmt: skip
    """y[n,m,e,f] = b[m] + the sum over k, i, j of x[n,k,Ue+i,Uf+j] w[m,k,i,j], U the stride, i and
    j spaced by the dilation, k within the group of m; x is taken as 0 outside (cross-correlation).
    One bias b (M,) or none."""
    taps = (w.shape[2], w.shape[3])
    size = (x.shape[2], x.shape[3])
    e, f = extents("conv2d", size, taps, stride, padding, dilation)
    y = np.empty((x.shape[0], e, f, w.shape[0]), x.dtype)
    windows = Windows(taps, stride, (padding[0][0], padding[1][0]), dilation)
    _correlate(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), windows, groups, y)
    for bias in b:
        y += bias
    return y.transpose(0, 3, 1, 2)


@conv2d.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return conv2d_dx(dy, w, size=specs[0].shape[2:], **attrs)


@conv2d.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return conv2d_dw(x, dy, size=specs[1].shape[2:], **attrs)


@conv2d.vjp("b")
def _(dy: Value) -> Value:
    return sum(dy, axes=(0, 2, 3))


@primitive(infer=_backward_data, cost=lambda dx, dy, w, **a: _macs(dy, w), outputs=("dx",))
def conv2d_dx(
    dy: NDArray,
    w: NDArray,
    *,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> NDArray:
    """dx = the gradient of `conv2d` in x of (height, width) `size`: each dy[n,m,e,f] w[m,k,i,j] is
    added at the place that it came from (called forward: transposed convolution)."""
    dx = np.empty((dy.shape[0], *size, w.shape[1] * groups), dy.dtype)
    windows = Windows(
        (w.shape[2], w.shape[3]), stride, (padding[0][0], padding[1][0]), dilation
    )
    tops, seen = dy.transpose(0, 2, 3, 1), dy.shape[2] * dy.shape[3] * stride[0] * stride[1]
    depthwise = w.shape[1] == 1 < groups == w.shape[0]
    fits = min(windows.lead) >= 0 and not depthwise
    write = _scatter if fits and 4 * seen < 3 * size[0] * size[1] else _gather
    write(tops, w, windows, groups, dx)
    return dx.transpose(0, 3, 1, 2)


@conv2d_dx.vjp("dy")
def _(ddx: Value, w: Value, size: Pair, **attrs: Any) -> Value:
    return conv2d(ddx, w, **attrs)


@conv2d_dx.vjp("w")
def _(ddx: Value, dy: Value, specs: tuple[Spec, ...], size: Pair, **attrs: Any) -> Value:
    return conv2d_dw(ddx, dy, size=specs[1].shape[2:], **attrs)


@primitive(infer=_backward_weights, cost=lambda dw, x, dy, **a: _macs(dy, dw), outputs=("dw",))
def conv2d_dw(
    x: NDArray,
    dy: NDArray,
    *,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> NDArray:
    """dw = the gradient of `conv2d` in filters of (height, width) `size`: the sum over n, e, f of
    x[n,k,Ue+i,Uf+j] dy[n,m,e,f]."""
    dw = np.empty((*size, x.shape[1] // groups, dy.shape[1]), x.dtype)
    windows = Windows(size, stride, (padding[0][0], padding[1][0]), dilation)
    _weigh(x.transpose(0, 2, 3, 1), dy.transpose(0, 2, 3, 1), windows, groups, dw)
    return np.ascontiguousarray(dw.transpose(3, 2, 0, 1))


@conv2d_dw.vjp("x")
def _(ddw: Value, dy: Value, specs: tuple[Spec, ...], size: Pair, **attrs: Any) -> Value:
    return conv2d_dx(dy, ddw, size=specs[0].shape[2:], **attrs)


@conv2d_dw.vjp("dy")
def _(ddw: Value, x: Value, size: Pair, **attrs: Any) -> Value:
    return conv2d(x, ddw, **attrs)


def _parts(groups: int, c: int, m: int) -> Iterator[tuple[slice, slice]]:
    """For each group: its channels and its results."""
    for g in range(groups):
        yield slice(g * c, (g + 1) * c), slice(g * m, (g + 1) * m)


def blocks(n: int, e: int, row_bytes: int) -> Iterator[tuple[slice, int, int]]:
    """Cut n images of e rows of windows into blocks of whole images, or of rows of one image,
    that stay in cache: (images, first row, row after the last)."""
    if e * row_bytes > BLOCK_BYTES:
        step = max(1, BLOCK_BYTES // row_bytes)
        for i in range(n):
            for a in range(0, e, step):
                yield slice(i, i + 1), a, min(a + step, e)
    else:
        count = max(1, BLOCK_BYTES // max(1, e * row_bytes))
        for i in range(0, n, count):
            yield slice(i, min(i + count, n)), 0, e


def _span(size: int, start: int, stop: int) -> tuple[int, int]:
    """Return which of the places start:stop lie within 0:size, counted from start."""
    first = min(max(-start, 0), stop - start)
    return first, max(first, min(size - start, stop - start))


def region(x: NDArray, windows: Windows, rows: Pair, columns: int, border: float) -> NDArray:
    """Return the part of x (N,H,W,C) that some rows of windows see: a view where it lies within x,
    else a copy with the border put in."""
    (r, s), (u, v), (top, left), (p, q) = windows
    h = (rows[0] * u - top, (rows[1] - 1) * u + p * (r - 1) + 1 - top)
    w = (-left, (columns - 1) * v + q * (s - 1) + 1 - left)
    if h[0] >= 0 and w[0] >= 0 and h[1] <= x.shape[1] and w[1] <= x.shape[2]:
        return x[:, h[0] : h[1], w[0] : w[1]]
    y = scratch("region", (x.shape[0], h[1] - h[0], w[1] - w[0], x.shape[3]), x.dtype)
    a, b = _span(x.shape[1], *h)
    c, d = _span(x.shape[2], *w)
    y[:, :a] = y[:, b:] = border
    y[:, a:b, :c] = y[:, a:b, d:] = border
    y[:, a:b, c:d] = x[:, h[0] + a : h[0] + b, w[0] + c : w[0] + d]
    return y


def sights(part: NDArray, windows: Windows, places: Pair) -> Iterator[NDArray]:
    """Yield, tap by tap, what all windows of a region (N,H,W,C) see through it, as views."""
    (r, s), (u, v), _, (p, q) = windows
    h, w = (places[0] - 1) * u + 1, (places[1] - 1) * v + 1
    for i in range(0, r * p, p):
        for j in range(0, s * q, q):
            yield part[:, i : i + h : u, j : j + w : v]


def _patches(
    x: NDArray, windows: Windows, places: Pair
) -> Iterator[tuple[slice, slice, NDArray]]:
    """Yield, block by block, which images and rows of windows it holds and its patches, a matrix
    (windows, taps and channels)."""
    (e, f), (r, s), (n, _, _, c) = places, windows.taps, x.shape
    k = r * s * c
    for images, a, b in blocks(n, e, f * k * x.itemsize):
        part = region(x[images], windows, (a, b), f, 0)
        yield images, slice(a, b), _rows(part, windows, (b - a, f), k)


def _rows(part: NDArray, windows: Windows, places: Pair, k: int) -> NDArray:
    """Return the patches of a region, copied (not where each is one pixel of contiguous memory)."""
    (r, s), (u, v), _, (p, q) = windows
    n, _, _, c = part.shape
    sn, sh, sw, sc = part.strides
    view = as_strided(
        part, (n, *places, r, s, c), (sn, sh * u, sw * v, sh * p, sw * q, sc), writeable=False
    )
    if view.flags.c_contiguous:
        return view.reshape(-1, k)
    if s * c < 12:  # short runs: copy along image rows instead, and let BLAS transpose
        patches = scratch("patches", (r, s, c, n, *places), part.dtype)
        np.copyto(patches, view.transpose(3, 4, 5, 0, 1, 2))
        return patches.reshape(k, -1).T
    patches = scratch("patches", view.shape, part.dtype)
    np.copyto(patches, view)
    return patches.reshape(-1, k)


def _correlate(x: NDArray, w: NDArray, windows: Windows, groups: int, y: NDArray) -> None:
    """Write the cross-correlation of x (N,H,W,C) with w (R,S,C/groups,M) to y (N,E,F,M)."""
    c, m = w.shape[2], w.shape[3] // groups
    if c == m == 1 < groups:
        return _correlate_each(x, w, windows, y)
    for channels, results in _parts(groups, c, m):
        matrix = np.ascontiguousarray(w[..., results]).reshape(-1, m)
        for images, rows, patches in _patches(x[..., channels], windows, (y.shape[1], y.shape[2])):
            target = y[images, rows, :, results]
            if target.flags.c_contiguous:
                np.matmul(patches, matrix, out=target.reshape(-1, m))
            else:
                product = scratch("product", (len(patches), m), y.dtype)
                target[...] = np.matmul(patches, matrix, out=product).reshape(target.shape)


def _correlate_each(x: NDArray, w: NDArray, windows: Windows, y: NDArray) -> None:
    """Write the correlation of each channel of x (N,H,W,C) with its own filter (R,S,1,C)."""
    filters = w.reshape(-1, w.shape[3])
    for images, a, b in blocks(y.shape[0], y.shape[1], y.itemsize * y.shape[2] * y.shape[3]):
        part, total = region(x[images], windows, (a, b), y.shape[2], 0), y[images, a:b]
        product = scratch("product", total.shape, y.dtype)
        for tap, seen in enumerate(sights(part, windows, (b - a, y.shape[2]))):
            np.multiply(seen, filters[tap], out=product if tap else total)
            if tap:
                total += product


def _gather(dy: NDArray, w: NDArray, windows: Windows, groups: int, dx: NDArray) -> None:
    """Write the transposed correlation. The places of dx that have one remainder by the stride
    see dy through every p-th tap, as a correlation of stride 1: stride^2 of them cover dx."""
    m, c, r, s = w.shape
    # (M, C/groups, R, S) to (R, S, M/groups, C): the roles of channels and results are exchanged.
    grouped = w.reshape(groups, m // groups, c, r, s).transpose(3, 4, 1, 0, 2)
    flipped = grouped.reshape(r, s, m // groups, groups * c)
    for a in range(min(windows.stride[0], dx.shape[1])):
        for b in range(min(windows.stride[1], dx.shape[2])):
            part = dx[:, a :: windows.stride[0], b :: windows.stride[1]]
            (i, high, top, p), (j, wide, left, q) = (
                _phase(place, axis, windows) for axis, place in enumerate((a, b))
            )
            if high and wide:
                chosen = flipped[i :: p[0], j :: q[0]][::-1, ::-1]
                seen = Windows((high, wide), (1, 1), (top, left), (p[1], q[1]))
                _correlate(dy, chosen, seen, groups, part)
            else:
                part[...] = 0


def _phase(place: int, axis: int, windows: Windows) -> tuple[int, int, int, Pair]:
    """Return which taps reach a remainder of one axis: the first, their number, how far before dy
    they start, and their distance among the taps and in dy."""
    taps, stride = windows.taps[axis], windows.stride[axis]
    lead, dilation = windows.lead[axis], windows.dilation[axis]
    step, apart = stride // gcd(stride, dilation), dilation // gcd(stride, dilation)
    firsts = [i for i in range(min(step, taps)) if (place + lead - i * dilation) % stride == 0]
    if not firsts:
        return 0, 0, 0, (step, apart)
    count = len(range(firsts[0], taps, step))
    start = (place + lead - firsts[0] * dilation) // stride
    return firsts[0], count, (count - 1) * apart - start, (step, apart)


def _scatter(dy: NDArray, w: NDArray, windows: Windows, groups: int, dx: NDArray) -> None:
    """Write the transposed correlation, tap by tap: less work than `_gather` where images lose
    much of their size, being without a border."""
    (n, e, f, _), (r, s), (top, left) = dy.shape, windows.taps, windows.lead
    (u, v), (p, q), (_, h, k, c) = windows.stride, windows.dilation, dx.shape
    high = max((e - 1) * u + p * (r - 1) + 1, top + h)
    wide = max((f - 1) * v + q * (s - 1) + 1, left + k)
    each = w.transpose(2, 3, 0, 1).reshape(r * s, *w.shape[:2])
    for images, _, _ in blocks(n, 1, high * wide * c * dx.itemsize):
        total = scratch("region", (len(dx[images]), high, wide, c), dx.dtype)
        total[...] = 0
        for channels, results in _parts(groups, w.shape[1], w.shape[0] // groups):
            tops = dy[images, :, :, results].reshape(-1, w.shape[0] // groups)
            share = scratch("product", (len(tops), w.shape[1]), dx.dtype)
            for tap, seen in enumerate(sights(total[..., channels], windows, (e, f))):
                seen += np.matmul(tops, each[tap, results], out=share).reshape(seen.shape)
        dx[images] = total[:, top : top + h, left : left + k]


def _weigh(x: NDArray, dy: NDArray, windows: Windows, groups: int, dw: NDArray) -> None:
    """Write the gradient of the filters to dw (R,S,C/groups,M)."""
    c, m = dw.shape[2], dw.shape[3] // groups
    dw[...] = 0
    if c == m == 1 < groups:
        return _weigh_each(x, dy, windows, dw.reshape(-1, groups))
    places = (dy.shape[1], dy.shape[2])
    for channels, results in _parts(groups, c, m):
        total = dw.reshape(-1, dw.shape[3])[:, results]
        for images, rows, patches in _patches(x[..., channels], windows, places):
            total += patches.T @ dy[images, rows, :, results].reshape(-1, m)


def _weigh_each(x: NDArray, dy: NDArray, windows: Windows, dw: NDArray) -> None:
    """Add to dw (R S, C) the gradient of filters of which each sees one channel."""
    n, e, f, c = dy.shape
    for images, a, b in blocks(n, e, dy.itemsize * f * c):
        part, tops = region(x[images], windows, (a, b), f, 0), dy[images, a:b]
        product = scratch("product", tops.shape, dy.dtype)
        for tap, seen in enumerate(sights(part, windows, (b - a, f))):
            dw[tap] += np.multiply(seen, tops, out=product).reshape(-1, c).sum(0)
