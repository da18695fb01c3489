"""Images sampled at places that are tensors themselves (Jaderberg et al. 2015), with torch's names.

Places are (.., 2), x before y, from -1 to 1: the centres of the outermost pixels with
`align_corners`, else the edges of the image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..array import array
from ..dtypes import INT64
from ..methods.mathematics import floor, round
from ..ops.gather import gather
from ..ops.linear import matmul
from ..ops.reduce import broadcast_to
from ..ops.shape import permute, reshape
from ..tensor import Tensor
from .arrange import where

__all__ = ["affine_grid", "grid_sample"]

MODES, BORDERS = ("bilinear", "nearest"), ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return the places (N, H, W, 2) of an image's pixels after affine maps theta (N, 2, 3).

    `size` is (N, C, H, W). ValueError where shapes do not fit."""
    if len(size) != 4 or theta.shape != (size[0], 2, 3):
        raise ValueError(
            f"affine_grid: expected theta (N, 2, 3) and size (N, C, H, W), got {theta.shape} and "
            f"{tuple(size)}"
        )
    n, _, h, w = size
    y, x = (_centres(m, align_corners) for m in (h, w))
    plane = np.stack([*np.broadcast_arrays(x[None], y[:, None], 1.0)], -1).reshape(h * w, 3)
    places = matmul(array(plane.astype(theta.dtype)), permute(theta, axes=(0, 2, 1)))
    return reshape(places, shape=(n, h, w, 2))


def _centres(count: int, align_corners: bool) -> np.ndarray:
    """Return the places of pixels along an axis."""
    if align_corners:
        return np.linspace(-1, 1, count) if count > 1 else np.zeros(count)
    return (2 * np.arange(count) + 1) / max(count, 1) - 1


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Return images (N, C, H, W) at places (N, E, F, 2): (N, C, E, F).

    Modes are "bilinear" and "nearest". Beyond the image are zeros, its "border", or its
    "reflection" at the place -1 or 1. ValueError for others and where shapes do not fit."""
    if mode not in MODES or padding_mode not in BORDERS:
        raise ValueError(
            f"grid_sample: expected a mode in {MODES} and a padding_mode in {BORDERS}, got "
            f"{mode!r} and {padding_mode!r}"
        )
    fits = input.ndim == grid.ndim == 4 and grid.shape[0] == input.shape[0]
    if not fits or grid.shape[3] != 2 or 0 in input.shape[2:]:
        raise ValueError(
            "grid_sample: expected images (N, C, H, W) and places (N, E, F, 2), got "
            f"{input.shape} and {grid.shape}"
        )
    n, c, h, w = input.shape
    flat = reshape(input, shape=(n, c, h * w))
    shape = (n, 1, grid.shape[1] * grid.shape[2])
    x, y = (
        _pixels(reshape(grid[..., i], shape=shape), m, padding_mode, align_corners)
        for i, m in enumerate((w, h))
    )
    if mode == "nearest":
        result = _at(flat, round(x), round(y), (h, w))
    else:
        left, top = floor(x), floor(y)
        parts = [
            _at(flat, left + i, top + j, (h, w)) * (_share(x - left, i) * _share(y - top, j))
            for i, j in product((0, 1), (0, 1))
        ]
        result = parts[0] + parts[1] + parts[2] + parts[3]
    return reshape(result, shape=(n, c, *grid.shape[1:3]))


def _share(rest: Tensor, side: int) -> Tensor:
    """Return the weight of the pixel before a place (0) or behind it (1)."""
    return rest if side else 1.0 - rest


def _pixels(place: Tensor, size: int, border: str, align_corners: bool) -> Tensor:
    """Return places along an axis as numbers of pixels."""
    if align_corners:
        x, low, span = (place + 1.0) * ((size - 1) / 2), 0.0, size - 1
    else:
        x, low, span = (place + 1.0) * (size / 2) - 0.5, -0.5, size
    if border == "reflection" and span:
        far = (x - low).abs()
        times = floor(far / span)
        rest = far - times * span
        odd = times - floor(times / 2) * 2 == 1
        x = where(odd, span - rest, rest) + low
    elif border == "reflection":
        x = x * 0.0
    return x if border == "zeros" else x.clamp(0, size - 1)


def _at(flat: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels (N, C, places) of images (N, C, H W), 0 beyond them."""
    h, w = size
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    index = where(inside, y * w + x, 0.0).detach().astype(INT64)
    chosen = broadcast_to(index, shape=(*flat.shape[:2], index.shape[2]))
    return where(inside, gather(flat, chosen, axis=2), 0.0)
