"""Pooling, with torch.nn.functional's names and argument order.

Images are (N, C, H, W) or (C, H, W). Options are one number or (vertical, horizontal); the stride
is the kernel size unless given. Signals (N, C, L) or (C, L) are pooled as images of height 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Literal, overload

from ..dtypes import plain
from ..ops import adaptive
from ..ops import pool as ops
from ..ops.conv import Padding, Pair
from ..recent import CALLS
from ..tensor import Tensor
from .arrange import where
from .conv import Sizes, images, pair, restore, sizes

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "lp_pool1d",
    "lp_pool2d",
    "max_pool1d",
    "max_pool2d",
]


def _windows(
    name: str,
    axes: int,
    size: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
) -> tuple[Pair, Pair, Padding, Pair]:
    """Return kernel, stride, padding and dilation as pairs, checked.

    With ceil_mode the border grows at the end so that a last window is whole, if it starts within
    the image or the border before it."""
    kernel = pair(f"{name}: kernel_size", kernel_size, axes, 1)
    strides = kernel if stride is None else pair(f"{name}: stride", stride, axes, 1)
    border = pair(f"{name}: padding", padding, axes)
    spread = pair(f"{name}: dilation", dilation, axes, 1)
    if not ceil_mode and border == (0, 0):  # by far the most frequent, and met in every call
        return kernel, strides, (border, border), spread
    down, right = _ends(name, size, kernel, strides, border, spread, ceil_mode)
    return kernel, strides, ((border[0], down), (border[1], right)), spread


@lru_cache(CALLS)
def _ends(
    name: str, size: tuple[int, ...], kernel: Pair, strides: Pair, border: Pair, spread: Pair,
    ceil_mode: bool,
) -> Pair:  # fmt: skip
    """Return the bottom and right borders. ValueError for padding of more than half a window."""
    ends = list(border)
    for i in (0, 1):
        reach = spread[i] * (kernel[i] - 1) + 1
        if 2 * border[i] > reach:
            raise ValueError(
                f"{name}: expected padding of at most half of kernel {kernel}, got {border}"
            )
        free = size[i] + 2 * border[i] - reach
        last = -(-free // strides[i])
        if ceil_mode and last >= 0:
            # A window that would begin in the border at the end is dropped, as in torch.
            last -= last * strides[i] >= size[i] + border[i]
            ends[i] += last * strides[i] - free
    return ends[0], ends[1]


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest value of each window; its gradient goes to the first of equal ones.

    The padding never wins and is at most half a window. The result has (H + 2 padding - dilation
    (kernel - 1) - 1) / stride + 1 rows, rounded down or, with ceil_mode, up (but no window starts
    beyond the image). With return_indices, also the int64 positions within the image, row by row.
    ValueError where no window fits."""
    y, position = max_pool(
        "max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )
    return y if position is None else (y, position)


def max_pool(
    name: str,
    axes: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the largest values over windows of one or two axes, and perhaps their positions."""
    x = images(name, input, axes)
    kernel, strides, border, spread = _windows(
        name, axes, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode
    )
    attrs = {"kernel": kernel, "stride": strides, "padding": border, "dilation": spread}
    y, argmax = ops.max_pool2d(x, **attrs)
    y = y if x is input else restore(y, input, axes)
    if not return_indices:
        return y, None
    position = ops.max_pool2d_position(argmax, size=x.shape[2:], **attrs)
    return y, restore(position, input, axes)


def max_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `max_pool2d` of signals (N, C, L) or (C, L)."""
    y, position = max_pool(
        "max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )
    return y if position is None else (y, position)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window; options as for `max_pool2d`.

    The sum is divided by the window's size, without its part in the padding unless
    count_include_pad, and always without what ceil_mode adds; or by divisor_override. ValueError
    where no window fits."""
    return avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


def avg_pool(
    name: str,
    axes: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the means over windows of one or two axes."""
    x = images(name, input, axes)
    kernel, strides, border, _ = _windows(
        name, axes, x.shape[2:], kernel_size, stride, padding, 1, ceil_mode
    )
    if divisor_override == 0:
        raise ValueError(f"{name}: expected divisor_override positive or None, got 0")
    y = ops.avg_pool2d(
        x,
        kernel=kernel,
        stride=strides,
        padding=border,
        counted=bool(count_include_pad),
        divisor=divisor_override or 0,
    )
    return y if x is input else restore(y, input, axes)


def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return `avg_pool2d` of signals (N, C, L) or (C, L)."""
    return avg_pool(
        "avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad
    )


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of each window, (sum of x^p)^(1/p) with p = `norm_type`, as in torch
    without absolute values, with gradient 0 at 0; options as for `max_pool2d`."""
    return lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode, avg_pool2d)


def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return `lp_pool2d` of signals (N, C, L) or (C, L)."""
    return lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode, avg_pool1d)


def lp_pool(
    name: str, axes: int, input: Tensor, p: float, kernel_size: Sizes, stride: Sizes | None,
    ceil_mode: bool, averaged: Callable[..., Tensor],
) -> Tensor:  # fmt: skip
    """Return the p-norm of each window, from means by `averaged`, a pooling of so many axes."""
    p = plain(p)
    if not p:
        raise ValueError(f"{name}: expected a norm_type other than 0, got {p}")
    taps = prod(sizes(f"{name}: kernel_size", kernel_size, axes, 1))
    means = averaged(input**p, kernel_size, stride, 0, ceil_mode)
    empty = means == 0
    return where(empty, 0.0, (where(empty, 1.0, means) * taps) ** (1 / p))


def output_of(
    name: str, output_size: int | Sequence[int | None] | None, size: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the output's extents, with the input's own for each None."""
    axes = len(size)
    given = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * axes
    if len(given) != axes or min(n for n in (*given, 0) if n is not None) < 0:
        raise ValueError(
            f"{name}: expected output_size of one number or {axes}, at least 0, got {output_size}"
        )
    return tuple(n if m is None else int(m) for n, m in zip(size, given, strict=True))


def _adapted(
    name: str, axes: int, input: Tensor, output_size: int | Sequence[int | None] | None
) -> tuple[Tensor, Pair]:
    """Return the input as images, and the extents of the output."""
    x = images(name, input, axes)
    out = output_of(name, output_size, x.shape[-axes:])
    return x, (1, out[0]) if axes == 1 else (out[0], out[1])


def _divides(size: tuple[int, ...], out: Pair) -> Pair | None:
    """Return the common size of the windows where they tile the image, else None."""
    if min(out) < 1 or min(size) < 1 or size[0] % out[0] or size[1] % out[1]:
        return None
    return size[0] // out[0], size[1] // out[1]


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Return the means of output_size (E, F) windows that share out the image.

    Window e has the rows floor(e H/E) to ceil((e+1) H/E), columns likewise. None keeps an extent.
    ValueError for a negative size."""
    return _adaptive_avg("adaptive_avg_pool2d", 2, input, output_size)


def adaptive_avg_pool1d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Return `adaptive_avg_pool2d` of signals (N, C, L) or (C, L)."""
    return _adaptive_avg("adaptive_avg_pool1d", 1, input, output_size)


def _adaptive_avg(
    name: str, axes: int, input: Tensor, output_size: int | Sequence[int | None] | None
) -> Tensor:
    x, out = _adapted(name, axes, input, output_size)
    kernel = _divides(x.shape[2:], out)
    if kernel is not None:
        y = avg_pool(name, 2, x, kernel, None, 0, False, True)
    else:
        y = adaptive.adaptive_avg_pool2d(x, out=out)
    return y if x is input else restore(y, input, axes)


def adaptive_max_pool2d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest values of output_size (E, F) windows, laid out as in
    `adaptive_avg_pool2d`.

    With return_indices, also their int64 positions within the image, row by row."""
    both = adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)
    return both if return_indices else both[0]


def adaptive_max_pool1d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `adaptive_max_pool2d` of signals (N, C, L) or (C, L)."""
    both = adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)
    return both if return_indices else both[0]


def adaptive_max(
    name: str,
    axes: int,
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool,
) -> tuple[Tensor, Tensor]:
    """Return the largest values over windows of one or two axes, and their positions, which are
    the values again where nobody asks for them."""
    x, out = _adapted(name, axes, input, output_size)
    kernel = _divides(x.shape[2:], out)
    if kernel is not None:
        y, position = max_pool(name, 2, x, kernel, None, 0, 1, False, return_indices)
    else:
        y, position = adaptive.adaptive_max_pool2d(x, out=out)
    position = y if position is None else position
    if x is input:
        return y, position
    return restore(y, input, axes), restore(position, input, axes)
