"""Convolution and pooling of volumes, with torch.nn.functional's names and argument order.

Volumes are (N, C, D, H, W) or (C, D, H, W); options are one number or (depth, vertical,
horizontal). All are made of what images have: for a convolution, the taps in depth become channels,
so its MACs are those of one convolution of images; pooling takes two steps, of which the first
pools each plane, and the second what that left, along the depth."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, overload

import numpy as np

from ..array import array
from ..ops import conv as ops
from ..ops.elementwise import add
from ..ops.gather import gather
from ..ops.shape import converted, getslice, pad, permute, reshape
from ..ops.sliding import sliding, sliding_sum, windows_along
from ..tensor import Tensor
from .conv import Sizes, biases, borders, output_padding_of, sizes, transposed_extents
from .pool import adaptive_avg_pool2d, adaptive_max, avg_pool, lp_pool, max_pool, output_of

__all__ = [
    "adaptive_avg_pool3d",
    "adaptive_max_pool3d",
    "avg_pool3d",
    "conv3d",
    "conv_transpose3d",
    "lp_pool3d",
    "max_pool3d",
]


def _volumes(name: str, input: Tensor) -> Tensor:
    """Return the input as (N, C, D, H, W). ValueError for another number of axes."""
    if input.ndim not in (4, 5):
        raise ValueError(f"{name}: expected an input of 4 or 5 axes, got shape {input.shape}")
    return input if input.ndim == 5 else reshape(input, shape=(1, *input.shape))


def _restored(y: Tensor, input: Tensor) -> Tensor:
    """Return a result with the number of axes that the input has."""
    return y if input.ndim == 5 else reshape(y, shape=y.shape[1:])


def _flat(weight: Tensor) -> Tensor:
    """Return filters (M, C, T, R, S) as (M, C T, R, S)."""
    m, c, t, *window = weight.shape
    return reshape(weight, shape=(m, c * t, *window))


def _check_filters(name: str, x: Tensor, weight: Tensor, channels: int) -> None:
    if weight.ndim != 5:
        raise ValueError(f"{name}: expected a weight of 5 axes, got shape {weight.shape}")
    if x.shape[1] != channels:
        raise ValueError(
            f"{name}: expected an input of {channels} channels for weight {weight.shape}, "
            f"got {x.shape[1]}"
        )


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return `conv2d` of volumes: weight (M, C/groups, T, R, S), bias (M,).

    The tape keeps T copies of the input, one for each tap in depth. ValueError where shapes do not
    fit."""
    b, x = biases("conv3d", weight, bias), _volumes("conv3d", input)
    _check_filters("conv3d", x, weight, weight.shape[1] * groups if weight.ndim == 5 else 0)
    u, q = sizes("conv3d: stride", stride, 3, 1), sizes("conv3d: dilation", dilation, 3, 1)
    taps = weight.shape[2:]
    border = borders("conv3d", padding, taps, u, q)
    padded = tuple(n + sum(p) for n, p in zip(x.shape[2:], border, strict=True))
    counts = [windows_along(*each) for each in zip(padded, taps, u, q, strict=True)]
    if min(counts) < 1:
        reach = tuple(d * (t - 1) + 1 for t, d in zip(taps, q, strict=True))
        raise ValueError(f"conv3d: expected a padded input of at least {reach}, got {padded}")
    if border[0] != (0, 0):
        x = pad(x, widths=((0, 0), (0, 0), border[0], (0, 0), (0, 0)))
    stacks = sliding(x, axis=2, taps=taps[0], stride=u[0], dilation=q[0])
    n, c, d, t, *plane = stacks.shape
    planes = reshape(permute(stacks, axes=(0, 2, 1, 3, 4, 5)), shape=(n * d, c * t, *plane))
    y = ops.conv2d(
        planes, _flat(weight), *b, stride=u[1:], padding=border[1:], dilation=q[1:], groups=groups
    )
    y = reshape(y, shape=(n, d, *y.shape[1:]))
    return _restored(permute(y, axes=(0, 2, 1, 3, 4)), input)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return `conv_transpose2d` of volumes: weight (M, C/groups, T, R, S), bias (C,)."""
    name = "conv_transpose3d"
    x = _volumes(name, input)
    _check_filters(name, x, weight, weight.shape[0])
    u, q = sizes(f"{name}: stride", stride, 3, 1), sizes(f"{name}: dilation", dilation, 3, 1)
    p = sizes(f"{name}: padding", padding, 3)
    more = output_padding_of(name, output_padding, 3, u, q)
    size = transposed_extents(name, x.shape[2:], weight.shape[2:], u, p, q, more)
    n, m, d, *plane = x.shape
    planes = reshape(permute(x, axes=(0, 2, 1, 3, 4)), shape=(n * d, m, *plane))
    # As in conv_transpose2d: what a whole stride of output_padding uncovers, no window may see.
    border = tuple((p[i], p[i] - more[i] // u[i] * u[i]) for i in (1, 2))
    y = ops.conv2d_dx(
        planes, _flat(weight), size=size[1:], stride=u[1:], padding=border, dilation=q[1:],
        groups=groups,
    )  # fmt: skip
    c, t = weight.shape[1] * groups, weight.shape[2]
    stacks = permute(reshape(y, shape=(n, d, c, t, *size[1:])), axes=(0, 2, 1, 3, 4, 5))
    whole = size[0] + 2 * p[0]
    y = sliding_sum(stacks, axis=2, size=whole, stride=u[0], dilation=q[0])
    if p[0]:
        inner = (p[0], whole - p[0], 1)
        y = getslice(y, slices=((0, n, 1), (0, c, 1), inner, *[(0, s, 1) for s in size[1:]]))
    if bias is not None:
        if bias.shape != (c,):
            raise ValueError(f"{name}: expected a bias of shape ({c},), got {bias.shape}")
        y = add(y, converted(reshape(bias, shape=(c, 1, 1, 1)), y.dtype))
    return _restored(y, input)


def _planes(x: Tensor) -> Tensor:
    """Return volumes as images whose channels are the planes."""
    n, c, d, *plane = x.shape
    return reshape(x, shape=(n, c * d, *plane))


def _depths(y: Tensor, x: Tensor) -> Tensor:
    """Return pooled planes of volumes x as images whose rows are the planes: (N, C, D, E F)."""
    return reshape(y, shape=(*x.shape[:3], prod(y.shape[2:])))


def _joined(y: Tensor, plane: tuple[int, ...], input: Tensor) -> Tensor:
    """Return pooled depths (N, C, D', E F) as volumes."""
    return _restored(reshape(y, shape=(*y.shape[:3], *plane)), input)


def _positions(planes: Tensor, depths: Tensor, x: Tensor) -> Tensor:
    """Return positions in volumes from those in planes (N, C, D, E F), and from those of the
    planes' results that the depths chose (N, C, D', E F)."""
    starts = np.arange(x.shape[2]) * prod(x.shape[3:])
    whole = add(planes, array(starts.reshape(-1, 1)))
    flat = reshape(whole, shape=(*x.shape[:2], prod(whole.shape[2:])))
    chosen = reshape(depths, shape=(*x.shape[:2], prod(depths.shape[2:])))
    return reshape(gather(flat, chosen, axis=2), shape=depths.shape)


@overload
def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest value of each window; options as for `max_pool2d`.

    With return_indices, also the int64 positions within the volume, plane by plane."""
    name, x = "max_pool3d", _volumes("max_pool3d", input)
    k = sizes(f"{name}: kernel_size", kernel_size, 3, 1)
    u = k if stride is None else sizes(f"{name}: stride", stride, 3, 1)
    p, q = sizes(f"{name}: padding", padding, 3), sizes(f"{name}: dilation", dilation, 3, 1)
    y, at = max_pool(name, 2, _planes(x), k[1:], u[1:], p[1:], q[1:], ceil_mode, return_indices)
    deep = (k[0], 1), (u[0], 1), (p[0], 0), (q[0], 1)
    z, depths = max_pool(name, 2, _depths(y, x), *deep, ceil_mode, return_indices)
    result = _joined(z, y.shape[2:], input)
    if at is None or depths is None:
        return result
    return result, _joined(_positions(_depths(at, x), depths, x), y.shape[2:], input)


def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window; options as for `avg_pool2d`."""
    name, x = "avg_pool3d", _volumes("avg_pool3d", input)
    k = sizes(f"{name}: kernel_size", kernel_size, 3, 1)
    u = k if stride is None else sizes(f"{name}: stride", stride, 3, 1)
    p = sizes(f"{name}: padding", padding, 3)
    divisor = None if divisor_override is None else 1
    counted = ceil_mode, count_include_pad
    y = avg_pool(name, 2, _planes(x), k[1:], u[1:], p[1:], *counted, divisor)
    deep = (k[0], 1), (u[0], 1), (p[0], 0)
    z = avg_pool(name, 2, _depths(y, x), *deep, *counted, divisor_override)
    return _joined(z, y.shape[2:], input)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return `lp_pool2d` of volumes (N, C, D, H, W) or (C, D, H, W)."""
    return lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode, avg_pool3d)


def adaptive_avg_pool3d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Return the means of output_size windows that share out the volume, laid out as in
    `adaptive_avg_pool2d`."""
    x = _volumes("adaptive_avg_pool3d", input)
    out = output_of("adaptive_avg_pool3d", output_size, x.shape[2:])
    y = adaptive_avg_pool2d(_planes(x), out[1:])
    return _joined(adaptive_avg_pool2d(_depths(y, x), (out[0], None)), y.shape[2:], input)


def adaptive_max_pool3d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest values of output_size windows, laid out as in `adaptive_avg_pool2d`.

    With return_indices, also their int64 positions within the volume, plane by plane."""
    name, x = "adaptive_max_pool3d", _volumes("adaptive_max_pool3d", input)
    out = output_of(name, output_size, x.shape[2:])
    y, at = adaptive_max(name, 2, _planes(x), out[1:], return_indices)
    z, depths = adaptive_max(name, 2, _depths(y, x), (out[0], None), return_indices)
    result = _joined(z, y.shape[2:], input)
    if not return_indices:
        return result
    return result, _joined(_positions(_depths(at, x), depths, x), y.shape[2:], input)
