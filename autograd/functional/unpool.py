"""Max pooling undone, with torch.nn.functional's names and argument order."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..tensor import Tensor
from .conv import Sizes, sizes
from .create import zeros

__all__ = ["max_unpool1d", "max_unpool2d", "max_unpool3d"]


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return an image of zeros with the results of `max_pool2d` at the positions it returned.

    Its extents are (H - 1) stride - 2 padding + kernel, or `output_size`, which is less than a
    stride from them. Of several values for one position the last one stays. ValueError for another
    size, IndexError for a position beyond the image."""
    return _unpooled("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return `max_unpool2d` of signals (N, C, L) or (C, L)."""
    return _unpooled("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return `max_unpool2d` of volumes (N, C, D, H, W) or (C, D, H, W)."""
    return _unpooled("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)


def _unpooled(
    name: str, axes: int, input: Tensor, indices: Tensor, kernel_size: Sizes,
    stride: Sizes | None, padding: Sizes, output_size: Sequence[int] | None,
) -> Tensor:  # fmt: skip
    if input.shape != indices.shape or input.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            f"{name}: expected an input of {axes + 1} or {axes + 2} axes and positions of its "
            f"shape, got {input.shape} and {indices.shape}"
        )
    kernel = sizes(f"{name}: kernel_size", kernel_size, axes, 1)
    strides = kernel if stride is None else sizes(f"{name}: stride", stride, axes, 1)
    border = sizes(f"{name}: padding", padding, axes)
    batch = input.shape[:-axes]
    usual = [
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(input.shape[-axes:], strides, border, kernel, strict=True)
    ]
    out = usual if output_size is None else [*output_size][-axes:]
    near = zip(out, usual, strides, strict=False)
    if len(out) != axes or any(abs(n - m) >= s for n, m, s in near):
        raise ValueError(
            f"{name}: expected an output_size less than {strides} from {tuple(usual)}, got "
            f"{output_size}"
        )
    flat = zeros(*batch, prod(out), dtype=input.dtype)
    y = flat.scatter(-1, indices.flatten(-axes), input.flatten(-axes))
    return y.reshape(*batch, *out)
