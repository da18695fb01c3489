"""Pooling, with torch.nn.functional's names and argument order.

Images are (N, C, H, W) or (C, H, W). Options are one number or (vertical, horizontal); the stride
is the kernel size unless given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, overload

from ..ops import adaptive
from ..ops import pool as ops
from ..ops.conv import Padding, Pair
from ..recent import CALLS
from ..tensor import Tensor
from .conv import Sizes, images, pair, restore

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"]


def _windows(
    name: str,
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
    kernel = pair(f"{name}: kernel_size", kernel_size, least=1)
    strides = kernel if stride is None else pair(f"{name}: stride", stride, least=1)
    border = pair(f"{name}: padding", padding)
    spread = pair(f"{name}: dilation", dilation, least=1)
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
    x = images("max_pool2d", input)
    kernel, strides, border, spread = _windows(
        "max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode
    )
    attrs = {"kernel": kernel, "stride": strides, "padding": border, "dilation": spread}
    y, argmax = ops.max_pool2d(x, **attrs)
    if not return_indices:
        return y if x is input else restore(y, input)
    position = ops.max_pool2d_position(argmax, size=x.shape[2:], **attrs)
    return restore(y, input), restore(position, input)


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
    x = images("avg_pool2d", input)
    kernel, strides, border, _ = _windows(
        "avg_pool2d", x.shape[2:], kernel_size, stride, padding, 1, ceil_mode
    )
    if divisor_override == 0:
        raise ValueError("avg_pool2d: expected divisor_override positive or None, got 0")
    y = ops.avg_pool2d(
        x,
        kernel=kernel,
        stride=strides,
        padding=border,
        counted=bool(count_include_pad),
        divisor=divisor_override or 0,
    )
    return y if x is input else restore(y, input)


def _output(
    name: str, output_size: int | Sequence[int | None] | None, size: tuple[int, ...]
) -> Pair:
    """Return (E, F), with the image's own extent for each None."""
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * 2
    if len(sizes) != 2 or min(n for n in (*sizes, 0) if n is not None) < 0:
        raise ValueError(
            f"{name}: expected output_size of one number or 2, at least 0, got {output_size}"
        )
    h, w = (n if m is None else int(m) for n, m in zip(size, sizes, strict=True))
    return h, w


def _divides(size: tuple[int, ...], out: Pair) -> Pair | None:
    """Return the common size of the windows where they tile the image, else None."""
    if min(out) < 1 or min(size) < 1 or size[0] % out[0] or size[1] % out[1]:
        return None
    return size[0] // out[0], size[1] // out[1]


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Return the means of output_size (E, F) windows that share out the image.

    Window e has the rows floor(e H/E) to ceil((e+1) H/E), columns likewise. None keeps an extent.
    ValueError for a negative size."""
    x = images("adaptive_avg_pool2d", input)
    out = _output("adaptive_avg_pool2d", output_size, x.shape[2:])
    kernel = _divides(x.shape[2:], out)
    if kernel is not None:
        return avg_pool2d(input, kernel)
    return restore(adaptive.adaptive_avg_pool2d(x, out=out), input)


def adaptive_max_pool2d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest values of output_size (E, F) windows, laid out as in
    `adaptive_avg_pool2d`.

    With return_indices, also their int64 positions within the image, row by row."""
    x = images("adaptive_max_pool2d", input)
    out = _output("adaptive_max_pool2d", output_size, x.shape[2:])
    kernel = _divides(x.shape[2:], out)
    if kernel is not None:
        if return_indices:
            return max_pool2d(input, kernel, return_indices=True)
        return max_pool2d(input, kernel)
    y, position = adaptive.adaptive_max_pool2d(x, out=out)
    return (restore(y, input), restore(position, input)) if return_indices else restore(y, input)
