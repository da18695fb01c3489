"""Rows for products of 8-bit integers. Their inputs are rounded, so no result has a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...array import NDArray, array
from ...functional.conv import convolve
from ...ops import quantized as ops
from ...tensor import Tensor
from .sample import Sample, normal

SCALE = 2.0**-5  # its reciprocal is exact: x / SCALE and x (1 / SCALE) are the same
TO_SUMS = 2.0**-9


def integers(*shape: int) -> Callable[[np.random.Generator], NDArray]:
    """Draw int8 weights from -127 to 127."""
    return lambda rng: rng.integers(-127, 128, shape, np.int8)


def per_filter(dtype: Any, filters: int, biased: bool) -> list[NDArray]:
    """Return a scale that differs from filter to filter, and a bias if there is one."""
    scale = (TO_SUMS * (1 + np.arange(filters) % 3)).astype(dtype)
    return [scale, (np.arange(filters) - 1.5).astype(dtype)] if biased else [scale]


def rounding(x: Tensor, signed: bool, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Return x as integers, and their scale in a shape."""
    scale = Tensor(array(np.full(shape, SCALE, x.dtype)))
    return ops.quantize(x, scale, scale, signed=signed)[0], scale


def rounded(torch: Any, x: Any, signed: bool) -> Any:
    """Return the integers of `quantize` in x's type."""
    return torch.clamp(
        torch.round(x.detach() / SCALE), -127 if signed else 0, 127 if signed else 255
    )


def conv(
    name: str, macs: int, x: tuple[int, ...], w: tuple[int, ...], biased: bool = False,
    signed: bool = True, **options: Any,
) -> Sample:  # fmt: skip
    """Return the row of a convolution of rounded images."""
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options

    def ours(x: Tensor, w: Tensor) -> Tensor:
        q, _ = rounding(x, signed)
        others = [Tensor(array(v)) for v in per_filter(x.dtype, w.shape[0], biased)]
        return convolve(ops.quantized_conv2d, "conv2d", 2, q, w, others, **defaults)

    def theirs(torch: Any, x: Any, w: Any) -> Any:
        scale, *bias = map(torch.tensor, per_filter(np.float64, w.shape[0], biased))
        q = rounded(torch, x, signed).double()
        y = torch.nn.functional.conv2d(q, w.double(), **options) * scale.reshape(-1, 1, 1)
        return (y + bias[0].reshape(-1, 1, 1) if bias else y).to(x.dtype)

    return Sample(f"quantized_conv2d/{name}", ours, (normal(*x), integers(*w)), theirs, macs)


def linear(name: str, x: tuple[int, ...], filters: int, biased: bool, signed: bool) -> Sample:
    """Return the row of a linear layer of rounded inputs."""

    def ours(x: Tensor, w: Tensor) -> Tensor:
        q, _ = rounding(x, signed)
        y: Tensor = ops.quantized_linear(q, w, *per_filter(x.dtype, w.shape[0], biased))
        return y

    macs = filters * int(np.prod(x))
    inputs = normal(*x), integers(filters, x[-1])
    return Sample(f"quantized_linear/{name}", ours, inputs, None, macs)


def each(scale_shape: tuple[int, ...], signed: bool, name: str) -> Sample:
    """Return the row of rounding alone, to integers and back."""

    def ours(x: Tensor) -> Tensor:
        q, scale = rounding(x, signed, scale_shape)
        return q * scale

    def theirs(torch: Any, x: Any) -> Any:
        return rounded(torch, x, signed) * SCALE

    return Sample(f"quantize/{name}", ours, (normal(3, 4, 5, 2),), theirs)


ROWS = [
    each((), True, "one scale"),
    each((3, 1, 1, 1), False, "a scale for each row, unsigned"),
    conv("plain", 2 * 4 * 3 * 9 * 6 * 5, (2, 3, 8, 7), (4, 3, 3, 3)),
    conv("bias, unsigned", 2 * 4 * 3 * 9 * 6 * 5, (2, 3, 8, 7), (4, 3, 3, 3), True, False),
    conv("padding and stride", 2 * 20 * 33 * 9 * 16, (2, 33, 8, 7), (20, 33, 3, 3), True,
         padding=1, stride=2),
    conv("one pixel", 2 * 70 * 64 * 3 * 4, (2, 64, 3, 4), (70, 64, 1, 1), True, False),
    conv("many terms", 2 * 3 * 128 * 9 * 25, (2, 128, 5, 5), (3, 128, 3, 3), False, False,
         padding=1),
    conv("groups, dilation", 2 * 6 * 2 * 9 * 5 * 3, (2, 4, 9, 7), (6, 2, 3, 3), True, groups=2,
         dilation=2),
    conv("depthwise", 2 * 4 * 9 * 25, (2, 4, 5, 5), (4, 1, 3, 3), True, groups=4, padding=1),
    conv("no images", 0, (0, 3, 8, 7), (4, 3, 3, 3), True),
    linear("bias", (5, 70), 33, True, True),
    linear("unsigned, many terms", (3, 2, 700), 20, False, False),
]  # fmt: skip
