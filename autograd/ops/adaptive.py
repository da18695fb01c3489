"""Adaptive pooling: a given number of windows shares out the images (N, C, H, W).

The windows need not have one size, and neighbours may overlap by a row or a column. Results lie
channels-last in memory."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import INT64
from ..ledger import Cost
from ..primitive import Value, primitive
from .conv import Pair
from .pool import check_images


def spans(size: int, count: int) -> list[tuple[int, int]]:
    """Return the windows [start, stop) of adaptive pooling along an axis of extent `size`.

    Window i of `count` starts at floor(i size / count) and stops at ceil((i + 1) size / count), as
    in torch."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(name: str, x: Spec, out: Pair) -> Spec:
    """Shape rule of adaptive pooling. ValueError for empty images."""
    check_images(name, x)
    if min(out) < 0 or min(x.shape[2:]) < 1:
        raise ValueError(
            f"{name}: expected images of at least 1 x 1 and an output of at least 0 x 0, got "
            f"{x.shape} and {out}"
        )
    return Spec((*x.shape[:2], *out), x.dtype)


def _means(x: NDArray, axis: int, count: int) -> NDArray:
    """Return the means of the windows along an axis."""
    y = np.empty((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)
    source, to = np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0)
    for i, (a, b) in enumerate(spans(x.shape[axis], count)):
        np.mean(source[a:b], 0, dtype=x.dtype, out=to[i])
    return y


def _shares(dy: NDArray, axis: int, size: int) -> NDArray:
    """Return what each element along an axis receives from the means of its windows.

    This is `_means` transposed."""
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype)
    source, to = np.moveaxis(dy, axis, 0), np.moveaxis(dx, axis, 0)
    for i, (a, b) in enumerate(spans(size, dy.shape[axis])):
        to[a:b] += source[i] / dy.dtype.type(b - a)
    return dx


def _covered(size: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Return the number of elements in all windows of an image, those in two windows counted
    twice."""
    (h, e), (w, f) = zip(size[2:], out[2:], strict=True)
    return sum(b - a for a, b in spans(h, e)) * sum(b - a for a, b in spans(w, f))


def _adaptive_avg_cost(x: Spec, y: Spec, adds: int) -> Cost:
    """Cost rule of averages: `adds` is 1 where the first element of a window is not added to
    another."""
    images = x.shape[0] * x.shape[1]
    return Cost(add=images * _covered(x.shape, y.shape) - adds * y.size, div=y.size)


@primitive(
    infer=lambda x, *, out: _adaptive("adaptive_avg_pool2d", x, out),
    cost=lambda y, x, *, out: _adaptive_avg_cost(x, y, 1),
)
def adaptive_avg_pool2d(x: NDArray, *, out: Pair) -> NDArray:
    """Return the mean of each of (E, F) = `out` windows, laid out by `spans`.

    Windows are products of a vertical and a horizontal span, so means are taken along one axis and
    then along the other."""
    with np.errstate(invalid="ignore"):  # inf and -inf in a window
        y = _means(_means(x.transpose(0, 2, 3, 1), 1, out[0]), 2, out[1])
    return y.transpose(0, 3, 1, 2)


@adaptive_avg_pool2d.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return adaptive_avg_pool2d_dx(dy, size=specs[0].shape[2:])


@primitive(
    infer=lambda dy, *, size: Spec((*dy.shape[:2], *size), dy.dtype),
    cost=lambda dx, dy, *, size: _adaptive_avg_cost(dx, dy, 0),
    outputs=("dx",),
)
def adaptive_avg_pool2d_dx(dy: NDArray, *, size: Pair) -> NDArray:
    """Return dx: each dy divided by its window's number of elements, added to every element of
    it."""
    with np.errstate(invalid="ignore"):
        dx = _shares(_shares(dy.transpose(0, 2, 3, 1), 1, size[0]), 2, size[1])
    return dx.transpose(0, 3, 1, 2)


@adaptive_avg_pool2d_dx.vjp("dy")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return adaptive_avg_pool2d(ddx, out=specs[0].shape[2:])


def _adaptive_max_rule(x: Spec, *, out: Pair) -> tuple[Spec, Spec]:
    """Shape rule of adaptive_max_pool2d: the maxima and their positions."""
    y = _adaptive("adaptive_max_pool2d", x, out)
    return y, Spec(y.shape, INT64)


@primitive(
    infer=_adaptive_max_rule,
    cost=lambda ys, x, *, out: Cost(
        cmp=x.shape[0] * x.shape[1] * _covered(x.shape, ys[0].shape) - ys[0].size
    ),
    outputs=("y", "position"),
)
def adaptive_max_pool2d(x: NDArray, *, out: Pair) -> tuple[NDArray, NDArray]:
    """Return the largest value of each of (E, F) = `out` windows, laid out by `spans`.

    position (N, C, E, F), int64, is where it lies in the image, row by row: the first
    of equal values, the last of NaNs, as in torch."""
    n, c, h, w = x.shape
    y, position = np.empty((n, *out, c), x.dtype), np.empty((n, *out, c), INT64)
    images = x.transpose(0, 2, 3, 1)
    for e, (a, b) in enumerate(spans(h, out[0])):
        for f, (p, q) in enumerate(spans(w, out[1])):
            window = images[:, a:b, p:q].reshape(n, (b - a) * (q - p), c)
            best = window.argmax(1)
            y[:, e, f] = np.take_along_axis(window, best[:, None], 1)[:, 0]
            if np.isnan(y[:, e, f]).any():
                last = window.shape[1] - 1 - np.isnan(window)[:, ::-1].argmax(1)
                best = np.where(np.isnan(y[:, e, f]), last, best)
            position[:, e, f] = (a + best // (q - p)) * w + p + best % (q - p)
    return y.transpose(0, 3, 1, 2), position.transpose(0, 3, 1, 2)


@adaptive_max_pool2d.vjp("x")
def _(dy: Value, position: Value, specs: tuple[Spec, ...]) -> Value:
    return plane_put(dy, position, size=specs[0].shape[2:])


@primitive(
    infer=lambda dy, position, *, size: Spec((*dy.shape[:2], *size), dy.dtype),
    cost=lambda dx, dy, position, *, size: Cost(add=dy.size),
    outputs=("dx",),
)
def plane_put(dy: NDArray, position: NDArray, *, size: Pair) -> NDArray:
    """Return zeros (N, C, H, W) to which each dy is added at its position in the image, row by
    row."""
    n, c = dy.shape[:2]
    planes = np.arange(n * c).reshape(n, c, 1, 1) * (size[0] * size[1])
    dx = np.zeros(n * c * size[0] * size[1], dy.dtype)
    np.add.at(dx, (planes + position).ravel(), dy.ravel())
    return dx.reshape(n, c, *size)


@plane_put.vjp("dy")
def _(ddx: Value, position: Value) -> Value:
    return plane_take(ddx, position)


@primitive(
    infer=lambda x, position: Spec(position.shape, x.dtype), cost=lambda y, x, position: Cost()
)
def plane_take(x: NDArray, position: NDArray) -> NDArray:
    """Return the elements of x at positions in the image: `plane_put` transposed."""
    n, c, h, w = x.shape
    flat = np.take_along_axis(x.reshape(n, c, h * w), position.reshape(n, c, -1), 2)
    return np.asarray(flat.reshape(position.shape))


@plane_take.vjp("x")
def _(dy: Value, position: Value, specs: tuple[Spec, ...]) -> Value:
    return plane_put(dy, position, size=specs[0].shape[2:])
