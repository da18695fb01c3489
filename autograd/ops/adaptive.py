"""Adaptive pooling: any number of windows shares out the images (N, C, H, W), whose extents it need
not divide. Results lie channels-last in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Value, primitive
from .conv import Pair
from .pool import INDEX, check_images


def spans(size: int, count: int) -> list[tuple[int, int]]:
    """Return the windows of adaptive pooling along an axis: i size/count, rounded down, up to
    (i + 1) size/count, rounded up."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(name: str, x: Spec, out: Pair) -> Spec:
    check_images(name, x)
    if min(out) < 0 or min(x.shape[2:]) < 1:
        raise ValueError(f"{name}: cannot pool {x.shape} to {out}")
    return Spec((*x.shape[:2], *out), x.dtype)


def _mixing(size: int, count: int, dtype: np.dtype[Any]) -> NDArray:
    """Return the matrix (count, size) that takes the means of the windows along an axis."""
    matrix = np.zeros((count, size), dtype)
    for row, (a, b) in zip(matrix, spans(size, count), strict=True):
        row[a:b] = 1 / (b - a)
    return matrix


def _mixed(x: NDArray, a: NDArray, b: NDArray) -> NDArray:
    """Return a x b^T for each image and channel of x (N, C, H, W), channels-last."""
    n, c, h, w = x.shape
    rows = np.matmul(a, x.transpose(0, 2, 3, 1).reshape(n, h, w * c))
    y = np.matmul(b, rows.reshape(n, a.shape[0], w, c))
    return np.asarray(y.transpose(0, 3, 1, 2))


def _covered(size: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Return the number of elements in all windows of an image together."""
    (h, e), (w, f) = zip(size[2:], out[2:], strict=True)
    return sum(b - a for a, b in spans(h, e)) * sum(b - a for a, b in spans(w, f))


def _adaptive_avg_cost(x: Spec, y: Spec, adds: int) -> Cost:
    images = x.shape[0] * x.shape[1]
    return Cost(add=images * _covered(x.shape, y.shape) - adds * y.size, div=y.size)


@primitive(
    infer=lambda x, *, out: _adaptive("adaptive_avg_pool2d", x, out),
    cost=lambda y, x, *, out: _adaptive_avg_cost(x, y, 1),
)
def adaptive_avg_pool2d(x: NDArray, *, out: Pair) -> NDArray:
    """y = the mean of each of (E, F) `out` windows that share out the image, as `spans` says."""
    h, w = x.shape[2:]
    return _mixed(x, _mixing(h, out[0], x.dtype), _mixing(w, out[1], x.dtype))


@adaptive_avg_pool2d.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return adaptive_avg_pool2d_dx(dy, size=specs[0].shape[2:])


@primitive(
    infer=lambda dy, *, size: Spec((*dy.shape[:2], *size), dy.dtype),
    cost=lambda dx, dy, *, size: _adaptive_avg_cost(dx, dy, 0),
    outputs=("dx",),
)
def adaptive_avg_pool2d_dx(dy: NDArray, *, size: Pair) -> NDArray:
    """dx = each dy over its window's number of elements, added to all of the window."""
    e, f = dy.shape[2:]
    return _mixed(dy, _mixing(size[0], e, dy.dtype).T, _mixing(size[1], f, dy.dtype).T)


@adaptive_avg_pool2d_dx.vjp("dy")
def _(ddx: Value, specs: tuple[Spec, ...]) -> Value:
    return adaptive_avg_pool2d(ddx, out=specs[0].shape[2:])


def _adaptive_max_rule(x: Spec, *, out: Pair) -> tuple[Spec, Spec]:
    y = _adaptive("adaptive_max_pool2d", x, out)
    return y, Spec(y.shape, INDEX)


@primitive(
    infer=_adaptive_max_rule,
    cost=lambda ys, x, *, out: Cost(
        cmp=x.shape[0] * x.shape[1] * _covered(x.shape, ys[0].shape) - ys[0].size
    ),
    outputs=("y", "place"),
)
def adaptive_max_pool2d(x: NDArray, *, out: Pair) -> tuple[NDArray, NDArray]:
    """y = the largest value of each of (E, F) `out` windows that share out the image, as `spans`
    says; place = its position in the image, row by row."""
    n, c, h, w = x.shape
    y, place = np.empty((n, *out, c), x.dtype), np.empty((n, *out, c), INDEX)
    images = x.transpose(0, 2, 3, 1)
    for e, (a, b) in enumerate(spans(h, out[0])):
        for f, (p, q) in enumerate(spans(w, out[1])):
            window = images[:, a:b, p:q].reshape(n, (b - a) * (q - p), c)
            first = window.argmax(1)
            y[:, e, f] = np.take_along_axis(window, first[:, None], 1)[:, 0]
            place[:, e, f] = (a + first // (q - p)) * w + p + first % (q - p)
    return y.transpose(0, 3, 1, 2), place.transpose(0, 3, 1, 2)


@adaptive_max_pool2d.vjp("x")
def _(dy: Value, place: Value, specs: tuple[Spec, ...]) -> Value:
    return plane_put(dy, place, size=specs[0].shape[2:])


@primitive(
    infer=lambda dy, place, *, size: Spec((*dy.shape[:2], *size), dy.dtype),
    cost=lambda dx, dy, place, *, size: Cost(add=dy.size),
    outputs=("dx",),
)
def plane_put(dy: NDArray, place: NDArray, *, size: Pair) -> NDArray:
    """dx = zeros to which each dy is added at its position in the image, row by row."""
    n, c = dy.shape[:2]
    planes = np.arange(n * c).reshape(n, c, 1, 1) * (size[0] * size[1])
    dx = np.zeros(n * c * size[0] * size[1], dy.dtype)
    np.add.at(dx, (planes + place).ravel(), dy.ravel())
    return dx.reshape(n, c, *size)


@plane_put.vjp("dy")
def _(ddx: Value, place: Value) -> Value:
    return plane_take(ddx, place)


@primitive(
    infer=lambda x, place: Spec(place.shape, x.dtype), cost=lambda y, x, place: Cost()
)
def plane_take(x: NDArray, place: NDArray) -> NDArray:
    """y = the elements of x at positions in the image: plane_put transposed."""
    n, c, h, w = x.shape
    flat = np.take_along_axis(x.reshape(n, c, h * w), place.reshape(n, c, -1), 2)
    return np.asarray(flat.reshape(place.shape))


@plane_take.vjp("x")
def _(dy: Value, place: Value, specs: tuple[Spec, ...]) -> Value:
    return plane_put(dy, place, size=specs[0].shape[2:])
