"""Convolutions, with torch.nn.functional's names and argument order.

Signals are convolved as images of height 1, so there is one implementation. "Convolution" means
cross-correlation, as everywhere in deep learning."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TypeAlias

from ..ops import conv as ops
from ..ops.elementwise import add
from ..ops.shape import converted, reshape
from ..primitive import Primitive
from ..tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

Sizes: TypeAlias = int | Sequence[int]


def pair(name: str, value: Sizes, axes: int = 2, least: int = 0) -> tuple[int, int]:
    """Return (vertical, horizontal) numbers of an option that is one number for all axes or one for
    each.

    With a single axis the vertical number is `least`, that of an image of height 1. ValueError
    where any is below `least`."""
    if axes == 2:  # by far the most frequent, and met in every call
        if type(value) is int and value >= least:
            return value, value
        if type(value) is tuple and len(value) == 2:
            a, b = value
            if type(a) is int and type(b) is int and a >= least and b >= least:
                return a, b
    numbers = sizes(name, value, axes, least)
    return (least, numbers[0]) if axes == 1 else (numbers[0], numbers[1])


def sizes(name: str, value: Sizes, axes: int, least: int = 0) -> tuple[int, ...]:
    """Return an option as a number for each axis. ValueError where any is below `least`."""
    many = tuple(value) if isinstance(value, Sequence) else (value,)
    numbers = tuple(index(v) for v in many)
    numbers = numbers * axes if len(numbers) == 1 else numbers
    if len(numbers) != axes or min(numbers) < least:
        raise ValueError(f"{name}: expected one number or {axes}, at least {least}, got {value}")
    return numbers


def images(name: str, input: Tensor, axes: int = 2) -> Tensor:
    """Return the input as (N, C, H, W): a missing N, and the H of signals, become 1.

    ValueError, which names the operation, for another number of axes."""
    shape = input.shape
    if axes == 2 and len(shape) == 4:
        return input
    if len(shape) not in (axes + 1, axes + 2):
        raise ValueError(
            f"{name}: expected an input of {axes + 1} or {axes + 2} axes, got shape {shape}"
        )
    batched = shape if len(shape) == axes + 2 else (1, *shape)
    full = batched if axes == 2 else (*batched[:2], 1, batched[2])
    return input if full == shape else reshape(input, shape=full)


def restore(y: Tensor, input: Tensor, axes: int = 2) -> Tensor:
    """Return a result (N, C, H, W) with the number of axes that the input has."""
    batch = y.shape[:1] if input.ndim == axes + 2 else ()
    shape = (*batch, y.shape[1], *y.shape[-axes:])
    return y if shape == y.shape else reshape(y, shape=shape)


def _filters(name: str, weight: Tensor, axes: int) -> Tensor:
    """Return a weight as (M, C/groups, R, S), R being 1 for signals."""
    if weight.ndim != axes + 2:
        raise ValueError(f"{name}: expected a weight of {axes + 2} axes, got shape {weight.shape}")
    return weight if axes == 2 else reshape(weight, shape=(*weight.shape[:2], 1, weight.shape[2]))


def _biased(name: str, y: Tensor, bias: Tensor | None) -> Tensor:
    """Return y (N, C, H, W) plus a bias (C,), if there is one."""
    if bias is None:
        return y
    if bias.shape != (y.shape[1],):
        raise ValueError(f"{name}: expected a bias of shape ({y.shape[1]},), got {bias.shape}")
    return add(y, converted(reshape(bias, shape=(1, y.shape[1], 1, 1)), y.dtype))


def borders(
    name: str,
    padding: Sizes | str,
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[ops.Pair, ...]:
    """Return padding as (before, after) for each axis, having resolved "valid" and "same"."""
    if not isinstance(padding, str):
        label, axes = f"{name}: padding", len(taps)
        numbers = pair(label, padding) if axes == 2 else sizes(label, padding, axes)
        return tuple([(n, n) for n in numbers])
    if padding == "valid":
        return ((0, 0),) * len(taps)
    if padding != "same" or max(stride) > 1:
        raise ValueError(
            f"{name}: expected padding of numbers, 'valid' or, for stride 1, 'same', "
            f"got {padding!r} with stride {stride}"
        )
    # Reach - 1 pixels in all; an odd number is wider at the end, as in torch.
    reaches = [d * (r - 1) for r, d in zip(taps, dilation, strict=True)]
    return tuple((n // 2, n - n // 2) for n in reaches)


def convolve(
    primitive: Primitive,
    name: str,
    axes: int,
    input: Tensor,
    weight: Tensor,
    others: Sequence[Tensor],
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """Return a convolution by a primitive of images, filters and `others`, such as biases, with the
    options of `conv2d`."""
    x, w = images(name, input, axes), _filters(name, weight, axes)
    strides = pair(f"{name}: stride", stride, axes, 1)
    spread = pair(f"{name}: dilation", dilation, axes, 1)
    # The height of signals, 1, has no border.
    border = borders(name, padding, weight.shape[2:], strides, spread[2 - axes :])
    border = border if axes == 2 else ((0, 0), *border)
    y = primitive(x, w, *others, stride=strides, padding=border, dilation=spread, groups=groups)
    return y if x is input else restore(y, input, axes)


def biases(name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Return a bias as what follows the weight. ValueError where it does not fit the filters."""
    if bias is None:
        return ()
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{name}: expected a bias of shape {weight.shape[:1]}, got {bias.shape}")
    return (bias,)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return the cross-correlation of images with filters, in the notation of Sze et al. (2017):

        O[n,m,x,y] = B[m] + sum over k, i, j of I[n,k,Ux+i,Uy+j] W[m,k,i,j]

    Input I is (N, C, H, W) or (C, H, W), weight W (M, C/groups, R, S), bias B (M,). The result is
    (N, M, E, F) with E = floor((H + 2 padding - dilation (R-1) - 1) / U) + 1, U the stride, F
    likewise.

    Options are one number or (vertical, horizontal). padding may be "valid" (none) or "same" (E = H
    at stride 1; an odd border is wider at the end). In each of the `groups` a share of the filters
    sees the same share of the channels. ValueError where shapes do not fit."""
    b = biases("conv2d", weight, bias)
    return convolve(ops.conv2d, "conv2d", 2, input, weight, b, stride, padding, dilation, groups)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return `conv2d` of signals: input (N, C, L) or (C, L), weight (M, C/groups, S), bias (M,)."""
    b = biases("conv1d", weight, bias)
    return convolve(ops.conv2d, "conv1d", 1, input, weight, b, stride, padding, dilation, groups)


def _conv_transpose(
    name: str,
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Tensor:
    x, w = images(name, input, axes), _filters(name, weight, axes)
    if x.shape[1] != w.shape[0]:
        raise ValueError(
            f"{name}: expected an input of {w.shape[0]} channels for weight {weight.shape}, "
            f"got {x.shape[1]}"
        )
    u, p = pair(f"{name}: stride", stride, axes, 1), pair(f"{name}: padding", padding, axes)
    q = pair(f"{name}: dilation", dilation, axes, 1)
    more = output_padding_of(name, output_padding, axes, u[2 - axes :], q[2 - axes :])
    more = more if axes == 2 else (0, *more)
    size = transposed_extents(name, x.shape[2:], w.shape[2:], u, p, q, more)
    # What a whole stride of output_padding uncovers, no window of the convolution may see.
    top, left = ((p[i], p[i] - more[i] // u[i] * u[i]) for i in (0, 1))
    # The transposed convolution is the data gradient of a convolution from `size` to the input's
    # extent.
    y = ops.conv2d_dx(x, w, size=size, stride=u, padding=(top, left), dilation=q, groups=groups)
    return restore(_biased(name, y, bias), input, axes)


def transposed_extents(
    name: str,
    size: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    more: tuple[int, ...],
) -> tuple[int, ...]:
    """Return the extents of the result of a transposed convolution; `more` is its output_padding.
    ValueError for an empty one."""
    reach = [d * (r - 1) + 1 for d, r in zip(dilation, taps, strict=True)]
    out = tuple(
        (n - 1) * u + r + m - 2 * p
        for n, u, r, m, p in zip(size, stride, reach, more, padding, strict=True)
    )
    if min(out) < 1:
        least, got = (" x ".join(map(str, e)) for e in ((1,) * len(out), out))
        raise ValueError(
            f"{name}: expected an output of at least {least}, got {got} from input of {size} with "
            f"padding {padding}"
        )
    return out


def output_padding_of(
    name: str, value: Sizes, axes: int, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """Return output_padding for each axis. ValueError where it reaches both stride and dilation:
    the added rows would be seen by no window."""
    more = sizes(f"{name}: output_padding", value, axes)
    if any(a >= max(b, c) for a, b, c in zip(more, stride, dilation, strict=True)):
        raise ValueError(
            f"{name}: expected output_padding below stride {stride} or dilation {dilation}, "
            f"got {more}"
        )
    return more


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return the transposed convolution: what `conv2d` with these filters does to a gradient.

    Input is (N, M, E, F) or (M, E, F), weight (M, C/groups, R, S), bias (C,). The result is (N, C,
    H, W) with H = (E-1) stride - 2 padding + dilation (R-1) + output_padding + 1, W likewise.
    ValueError where shapes do not fit, or output_padding reaches both stride and dilation."""
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups,
        dilation,
    )  # fmt: skip


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return `conv_transpose2d` of signals: input (N, M, L) or (M, L), weight (M, C/groups, S)."""
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups,
        dilation,
    )  # fmt: skip
