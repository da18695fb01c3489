"""Convolution of images and its two gradients: three primitives that are each other's derivatives.

Shapes: images x (N, C, H, W), filters w (M, C/groups, R, S), results y (N, M, E, F). Attributes are
(vertical, horizontal) pairs; padding is ((top, bottom), (left, right)) and may be negative, which
crops. Results lie channels-last in memory.

The convolution is linear in x and in w, so the derivative of each of the three primitives in each
of its arguments is one of the other two: second derivatives need nothing else. MACs of all three
are equal, as in Sze et al. (2017): M filters of C/groups R S taps at each of N E F windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..array import Array, NDArray, Spec
from ..dtypes import KERNEL_TYPES, computed_in, is_narrow
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, count_along, factor
from ..primitive import Value, primitive
from .correlation import correlate, spread, weigh
from .reduce import sum
from .shape import converted
from .windows import Padding as Padding
from .windows import Pair as Pair
from .windows import Windows, extents, overlaps


def _check(name: str, a: Spec, b: Spec) -> None:
    """TypeError or ValueError unless both arrays have 4 axes and one type that convolution computes
    in."""
    if a.dtype != b.dtype or a.dtype not in KERNEL_TYPES:
        names = ", ".join(map(str, KERNEL_TYPES))
        raise TypeError(f"{name}: expected two of one type ({names}), got {a.dtype}, {b.dtype}")
    if len(a.shape) != 4 or len(b.shape) != 4:
        raise ValueError(f"{name}: expected two arrays of 4 axes, got {a.shape} and {b.shape}")


def convolved(
    x: Spec, w: Spec, *b: Spec, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Spec:
    """Shape rule of conv2d. TypeError or ValueError, with both values, for what does not fit."""
    _check("conv2d", x, w)
    for bias in b:
        if bias.dtype != w.dtype:
            raise TypeError(f"conv2d: expected a bias of {w.dtype}, got {bias.dtype}")
        if bias.shape != w.shape[:1]:
            raise ValueError(f"conv2d: expected a bias of shape {w.shape[:1]}, got {bias.shape}")
    m, c, *taps = w.shape
    if groups < 1 or m % groups:
        raise ValueError(f"conv2d: expected groups that divide {m} filters, got {groups}")
    if x.shape[1] != c * groups:
        raise ValueError(
            f"conv2d: expected an input of {c * groups} channels for weight {w.shape} with "
            f"groups={groups}, got {x.shape[1]}"
        )
    size = (x.shape[2], x.shape[3])
    e, f = extents("conv2d", size, (taps[0], taps[1]), stride, padding, dilation)
    return Spec((x.shape[0], m, e, f), x.dtype)


def _backward_data(dy: Spec, w: Spec, *, size: Pair, groups: int, **attrs: Any) -> Spec:
    """Shape rule of conv2d_dx: the image. ValueError for a dy that no such image gives."""
    _check("conv2d_dx", dy, w)
    x = Spec((dy.shape[0], w.shape[1] * groups, *size), dy.dtype)
    _matches("conv2d_dx", dy, convolved(x, w, groups=groups, **attrs))
    return x


def _backward_weights(x: Spec, dy: Spec, *, size: Pair, groups: int, **attrs: Any) -> Spec:
    """Shape rule of conv2d_dw: the filters, in the type of sums. ValueError for a dy that no such
    filters give."""
    _check("conv2d_dw", x, dy)
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"conv2d_dw: expected groups that divide {x.shape[1]} channels, got {groups}"
        )
    w = Spec((dy.shape[1], x.shape[1] // groups, *size), x.dtype)
    _matches("conv2d_dw", dy, convolved(x, w, groups=groups, **attrs))
    return w._replace(dtype=computed_in(x.dtype))


def _matches(name: str, dy: Spec, y: Spec) -> None:
    """ValueError for a gradient dy of another shape than the result's."""
    if dy.shape != y.shape:
        raise ValueError(f"{name}: expected dy of shape {y.shape}, got {dy.shape}")


def _macs(y: Spec, w: Spec) -> Cost:
    """Return M filters of C/groups R S taps at each of N E F windows, padding included (Sze et al.
    2017)."""
    return Cost(macs=y.size * w.shape[1] * w.shape[2] * w.shape[3])


def products(
    x: NDArray, w: NDArray, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> NDArray:
    """Return the cross-correlation of images with filters, channels-last: (N, E, F, M)."""
    taps = (w.shape[2], w.shape[3])
    size = (x.shape[2], x.shape[3])
    e, f = extents("conv2d", size, taps, stride, padding, dilation)
    y = np.empty((x.shape[0], e, f, w.shape[0]), x.dtype)
    windows = Windows(taps, stride, (padding[0][0], padding[1][0]), dilation)
    correlate(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), windows, groups, y)
    return y


@primitive(infer=convolved, cost=lambda y, x, w, *b, **a: _macs(y, w)._replace(add=len(b) * y.size))
def conv2d(
    x: NDArray, w: NDArray, *b: NDArray, stride: Pair, padding: Padding, dilation: Pair,
    groups: int,
) -> NDArray:  # fmt: skip
    """Return the cross-correlation of images with filters:

        y[n,m,e,f] = b[m] + sum over k, i, j of x[n,k,Ue+i,Uf+j] w[m,k,i,j]

    U is the stride; i and j are spaced by the dilation; k runs over the channels of m's group; x is
    0 in the padding. One bias b (M,) or none."""
    y = products(x, w, stride, padding, dilation, groups)
    for bias in b:
        y += bias
    return y.transpose(0, 3, 1, 2)


@conv2d.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    # A tap (k, i, j) of all filters meets the non-zero pixels of channel k.
    x, w = factor(args[0]), factor(args[1], weights=True)
    m, c, *taps = w.nonzero.shape
    groups = attrs["groups"]
    count_x = count_along(x.nonzero, 0)
    count_w = count_along(w.nonzero.reshape(groups, m // groups, c, *taps), 1).reshape(-1, *taps)
    total = 0
    for i, j, _, part in overlaps(count_x.shape[1:], (*taps,), results[0].shape[2:], attrs):
        total += int(count_x[:, *part].sum((1, 2)) @ count_w[:, i, j])
    return [CountedProduct(x, w, total)]


@conv2d.vjp("x")
def _(dy: Value, w: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    # A result that other convolutions took as weights has a gradient in the type of sums.
    return conv2d_dx(converted(dy, w.dtype), w, size=specs[0].shape[2:], **attrs)


@conv2d.vjp("w")
def _(dy: Value, x: Value, specs: tuple[Spec, ...], **attrs: Any) -> Value:
    return conv2d_dw(x, converted(dy, x.dtype), size=specs[1].shape[2:], **attrs)


@conv2d.vjp("b")
def _(dy: Value) -> Value:
    return sum(dy, axes=(0, 2, 3), wide=is_narrow(dy.dtype))


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
    """Return the gradient of `conv2d` with respect to x of (height, width) `size`.

    Each dy[n,m,e,f] w[m,k,i,j] is added to the pixel it came from. Called in a forward pass it is
    the transposed convolution."""
    dx = np.empty((dy.shape[0], *size, w.shape[1] * groups), dy.dtype)
    windows = Windows((w.shape[2], w.shape[3]), stride, (padding[0][0], padding[1][0]), dilation)
    spread(dy.transpose(0, 2, 3, 1), w, windows, groups, dx)
    return dx.transpose(0, 3, 1, 2)


@conv2d_dx.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    # A gradient of filter m meets the taps of m that lie within the image.
    dy, w = factor(args[0]), factor(args[1], weights=True)
    count_dy, count_w = count_along(dy.nonzero, 0), count_along(w.nonzero, 1)
    total = 0
    for i, j, part, _ in overlaps(
        results[0].shape[2:], count_w.shape[1:], count_dy.shape[1:], attrs
    ):
        total += int(count_dy[:, *part].sum((1, 2)) @ count_w[:, i, j])
    return [CountedProduct(dy, w, total)]


@conv2d_dx.vjp("dy")
def _(ddx: Value, w: Value, size: Pair, **attrs: Any) -> Value:
    return conv2d(converted(ddx, w.dtype), w, **attrs)


@conv2d_dx.vjp("w")
def _(ddx: Value, dy: Value, specs: tuple[Spec, ...], size: Pair, **attrs: Any) -> Value:
    return conv2d_dw(converted(ddx, dy.dtype), dy, size=specs[1].shape[2:], **attrs)


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
    """Return the gradient of `conv2d` with respect to filters of (height, width) `size`:

    dw[m,k,i,j] = sum over n, e, f of x[n,k,Ue+i,Uf+j] dy[n,m,e,f]"""
    dw = np.empty((*size, x.shape[1] // groups, dy.shape[1]), x.dtype)
    windows = Windows(size, stride, (padding[0][0], padding[1][0]), dilation)
    weigh(x.transpose(0, 2, 3, 1), dy.transpose(0, 2, 3, 1), windows, groups, dw)
    return np.ascontiguousarray(dw.transpose(3, 2, 0, 1))


@conv2d_dw.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    # At each place, through each tap, non-zero channels meet non-zero gradients of their group.
    x, dy = factor(args[0]), factor(args[1])
    groups = attrs["groups"]
    count_x, count_dy = (
        count_along(a.reshape(len(a), groups, a.shape[1] // groups, *a.shape[2:]), 2)
        for a in (x.nonzero, dy.nonzero)
    )
    total = 0
    for _, _, outputs, part in overlaps(
        count_x.shape[2:], attrs["size"], count_dy.shape[2:], attrs
    ):
        total += int(np.einsum("ngef,ngef->", count_x[:, :, *part], count_dy[:, :, *outputs]))
    return [CountedProduct(x, dy, total)]


@conv2d_dw.vjp("x")
def _(ddw: Value, dy: Value, specs: tuple[Spec, ...], size: Pair, **attrs: Any) -> Value:
    return conv2d_dx(dy, converted(ddw, dy.dtype), size=specs[0].shape[2:], **attrs)


@conv2d_dw.vjp("dy")
def _(ddw: Value, x: Value, size: Pair, **attrs: Any) -> Value:
    return conv2d(x, converted(ddw, x.dtype), **attrs)
