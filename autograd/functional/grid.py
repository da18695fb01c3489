"""Images and volumes sampled at places that are tensors themselves (Jaderberg et al. 2015), with
torch's names.

Places are (.., 2) or (.., 3), x before y before z, from -1 to 1: the centres of the outermost
pixels with `align_corners`, else the edges of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import product
from math import prod
from operator import add, and_, mul

import numpy as np

from ..array import array
from ..dtypes import INT64, is_floating
from ..methods.mathematics import floor, round
from ..ops.gather import gather
from ..ops.linear import matmul
from ..ops.reduce import broadcast_to
from ..ops.shape import permute, reshape
from ..ops.stretch import SHARP, far_weight, near_weight
from ..tensor import Tensor
from .arrange import where

__all__ = ["affine_grid", "grid_sample"]

MODES, BORDERS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return the places (N, H, W, 2) of an image's pixels after affine maps theta (N, 2, 3), or
    (N, D, H, W, 3) of a volume's after theta (N, 3, 4).

    `size` is (N, C, H, W) or (N, C, D, H, W). ValueError where shapes do not fit, TypeError for
    integers."""
    axes = len(size) - 2
    if axes not in (2, 3) or theta.shape != (size[0], axes, axes + 1):
        raise ValueError(
            "affine_grid: expected theta (N, 2, 3) and size (N, C, H, W), or (N, 3, 4) and (N, C, "
            f"D, H, W), got {theta.shape} and {tuple(size)}"
        )
    if not is_floating(theta.dtype):
        raise TypeError(f"affine_grid: expected floating-point numbers, got {theta.dtype}")
    n, _, *extents = size
    centres = np.meshgrid(*[_centres(m, align_corners) for m in extents], indexing="ij")
    plane = np.stack([*reversed(centres), np.ones(extents)], -1).reshape(-1, axes + 1)
    places = matmul(array(plane.astype(theta.dtype)), permute(theta, axes=(0, 2, 1)))
    return reshape(places, shape=(n, *extents, axes))


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
    """Return images (N, C, H, W) at places (N, E, F, 2): (N, C, E, F), or volumes (N, C, D, H, W)
    at places (N, E, F, G, 3).

    Modes are "bilinear", in volumes along three axes, "nearest", and for images "bicubic" (Keys
    1981). Beyond the image are zeros, its "border", or its "reflection" at the place -1 or 1.
    ValueError for others and where shapes do not fit."""
    axes = input.ndim - 2
    if mode not in MODES[: 3 if axes == 2 else 2] or padding_mode not in BORDERS:
        raise ValueError(
            f"grid_sample: expected a mode in {MODES} (bicubic for images) and a padding_mode in "
            f"{BORDERS}, got {mode!r} and {padding_mode!r}"
        )
    fits = axes in (2, 3) and grid.ndim == input.ndim and grid.shape[0] == input.shape[0]
    if not fits or grid.shape[-1] != axes or 0 in input.shape[2:]:
        raise ValueError(
            "grid_sample: expected images (N, C, H, W) and places (N, E, F, 2), or volumes (N, C, "
            f"D, H, W) and places (N, E, F, G, 3), got {input.shape} and {grid.shape}"
        )
    n, c, *extents = input.shape
    flat = reshape(input, shape=(n, c, prod(extents)))
    shape = (n, 1, prod(grid.shape[1:-1]))
    taps = [
        _taps(reshape(grid[..., i], shape=shape), m, mode, padding_mode, align_corners)
        for i, m in enumerate(reversed(extents))
    ]
    parts = []
    for chosen in product(*taps):
        pixels, shares = zip(*chosen, strict=True)
        part = _at(flat, pixels, extents)
        parts.append(part if mode == "nearest" else part * reduce(mul, [f() for f in shares]))
    return reshape(reduce(add, parts), shape=(n, c, *grid.shape[1:-1]))


def _taps(
    place: Tensor, size: int, mode: str, border: str, align_corners: bool
) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Return the numbers of the pixels along an axis that places read, and functions that give
    their weights."""
    x = (place + 1.0) * ((size - 1) / 2) if align_corners else (place + 1.0) * (size / 2) - 0.5
    if mode == "bicubic":
        before = floor(x)
        rest = x - before
        pixels = [_bordered(before + i, size, border, align_corners) for i in (-1, 0, 1, 2)]
        weights = [
            partial(far_weight, 1.0 + rest, SHARP),
            partial(near_weight, rest, SHARP),
            partial(near_weight, 1.0 - rest, SHARP),
            partial(far_weight, 2.0 - rest, SHARP),
        ]
        return [*zip(pixels, weights, strict=True)]
    x = _bordered(x, size, border, align_corners)
    if mode == "nearest":
        return [(round(x), lambda: x)]
    before = floor(x)
    return [(before, lambda: 1.0 - (x - before)), (before + 1, lambda: x - before)]


def _bordered(x: Tensor, size: int, border: str, align_corners: bool) -> Tensor:
    """Return numbers of pixels, those beyond an image moved into it by its border."""
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if border == "reflection" and span:
        far = (x - low).abs()
        times = floor(far / span)
        rest = far - times * span
        odd = times - floor(times / 2) * 2 == 1
        x = where(odd, span - rest, rest) + low
    elif border == "reflection":
        x = x * 0.0
    return x if border == "zeros" else x.clamp(0, size - 1)


def _at(flat: Tensor, pixels: Sequence[Tensor], extents: Sequence[int]) -> Tensor:
    """Return the pixels (N, C, places) with numbers x, y and, if any, z of images (N, C, ..) with
    one axis for all pixels, 0 beyond them."""
    limits = [*zip(pixels, reversed(extents), strict=True)]
    inside = reduce(and_, [(x >= 0) & (x <= m - 1) for x, m in limits])
    *_, index = numbers = [where(inside, x, 0.0).detach().astype(INT64) for x in pixels]
    for number, extent in zip(numbers[-2::-1], extents[1:], strict=True):
        index = index * extent + number
    chosen = broadcast_to(index, shape=(*flat.shape[:2], index.shape[2]))
    return where(inside, gather(flat, chosen, axis=2), 0.0)
