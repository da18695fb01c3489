"""Linear and convolutional layers, and what stands between them.

Arguments, parameter names, shapes and initial distributions are torch's: weights and biases are
uniform in +- 1 / sqrt(fan_in)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import ClassVar

import numpy.typing as npt

from ..device import Device, layer_type
from ..dtypes import FLOAT32
from ..functional.arrange import pad
from ..functional.conv import (
    Sizes,
    conv1d,
    conv2d,
    conv_transpose1d,
    conv_transpose2d,
    sizes,
)
from ..functional.create import zeros
from ..functional.linear import bilinear, linear
from ..functional.volume import conv3d, conv_transpose3d
from ..suggest import unknown
from ..tensor import Parameter, Tensor
from . import init
from .module import Module

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

__all__ = [
    "Bilinear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Flatten",
    "Identity",
    "Linear",
    "Unflatten",
]


def parameter(*shape: int, dtype: npt.DTypeLike = FLOAT32) -> Parameter:
    """Return a parameter of zeros, for an initialiser to fill."""
    return Parameter(zeros(*shape, dtype=dtype).array.own())


def reset(weight: Parameter, bias: Parameter | None) -> None:
    """Draw weights and biases uniformly from +- 1 / sqrt(fan_in), torch's default."""
    init.kaiming_uniform_(weight, a=sqrt(5.0))
    if bias is not None:
        bound = 1.0 / sqrt(max(init.fans(weight.shape)[0], 1))
        init.uniform_(bias, -bound, bound)


class Linear(Module):
    """A fully connected layer: y = x weight.T + bias.

    x is (.., in_features), weight (out_features, in_features), bias (out_features,) or None, y (..,
    out_features). `dtype` is the type of both parameters."""

    shown = ("in_features", "out_features")
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.in_features, self.out_features = in_features, out_features
        self.weight = parameter(out_features, in_features, dtype=dtype)
        self.register_parameter("bias", parameter(out_features, dtype=dtype) if bias else None)
        reset(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (.., out_features)."""
        return linear(x, self.weight, self.bias)


class Bilinear(Module):
    """y[.., o] = the sum over i, j of x1[.., i] weight[o, i, j] x2[.., j], plus bias[o].

    The weight is (out_features, in1_features, in2_features), the bias (out_features,) or None; both
    are uniform in +- 1 / sqrt(in1_features)."""

    shown = ("in1_features", "in2_features", "out_features")
    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.in1_features, self.in2_features = in1_features, in2_features
        self.out_features, bound = out_features, 1 / sqrt(max(in1_features, 1))
        self.weight = parameter(out_features, in1_features, in2_features, dtype=dtype)
        self.register_parameter("bias", parameter(out_features, dtype=dtype) if bias else None)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return (.., out_features)."""
        return bilinear(x1, x2, self.weight, self.bias)


class _Filters(Module):
    """Options and parameters that convolutions of `axes` axes share."""

    shown = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
    bias: Parameter | None
    axes: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        dilation: Sizes,
        groups: int,
        bias: bool,
        dtype: npt.DTypeLike,
    ) -> None:
        self._check_groups(groups, in_channels, out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = self._numbers("kernel_size", kernel_size, 1)
        self.stride = self._numbers("stride", stride, 1)
        self.dilation, self.groups = self._numbers("dilation", dilation, 1), groups
        first, second = (out_channels, in_channels)[:: -1 if self.transposed else 1]
        self.weight = parameter(first, second // groups, *self.kernel_size, dtype=dtype)
        self.register_parameter("bias", parameter(out_channels, dtype=dtype) if bias else None)
        reset(self.weight, self.bias)

    def _check_groups(self, groups: int, in_channels: int, out_channels: int) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: expected groups that divide {in_channels} and "
                f"{out_channels} channels, got {groups}"
            )

    def _numbers(self, option: str, value: Sizes, least: int = 0) -> tuple[int, ...]:
        return sizes(f"{type(self).__name__}: {option}", value, self.axes, least)


class Conv2d(_Filters):
    """Cross-correlation of images with learned filters, see `functional.conv.conv2d`.

    x is (N, in_channels, H, W), weight (out_channels, in_channels / groups, R, S), bias
    (out_channels,). `kernel_size`, `stride`, `padding` and `dilation` are one number or (vertical,
    horizontal); padding, on each side, may also be "same" or "valid". It is of zeros, or as
    `padding_mode` has it one of the others of `functional.arrange.pad`. In each of the `groups` a
    share of the filters sees the same share of the channels.

    ValueError where the groups do not divide the channels, and for options out of range."""

    axes = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, dtype
        )
        if padding_mode not in PADDING_MODES:
            raise unknown("padding_mode", padding_mode, PADDING_MODES)
        self.padding_mode = padding_mode
        self.padding = padding if isinstance(padding, str) else self._numbers("padding", padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H', W')."""
        x, padding = self._bordered(x)
        return (conv1d, conv2d, conv3d)[self.axes - 1](
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )

    def _bordered(self, x: Tensor) -> tuple[Tensor, Sizes | str]:
        """Return x with its border, unless that is of zeros, and the padding that is left to do."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return x, self.padding
        widths: list[int] = []
        for axis in reversed(range(self.axes)):
            if isinstance(self.padding, str):  # "same": of an odd border more behind
                both = self.dilation[axis] * (self.kernel_size[axis] - 1)
                widths += [both // 2, both - both // 2]
            else:
                widths += [self.padding[axis]] * 2
        return pad(x, widths, self.padding_mode), 0


class Conv1d(Conv2d):
    """`Conv2d` of signals: x (N, in_channels, L), weight (out_channels, in_channels / groups,
    S)."""

    axes = 1


class Conv3d(Conv2d):
    """`Conv2d` of volumes: x (N, in_channels, D, H, W), weight (out_channels, in_channels / groups,
    T, R, S)."""

    axes = 3


class ConvTranspose2d(_Filters):
    """Transposed convolution, a layer that enlarges images: what `Conv2d` does to a gradient.

    x is (N, in_channels, H, W), weight (in_channels, out_channels / groups, R, S), bias
    (out_channels,). Options are those of the Conv2d that it reverses: H' = (H - 1) stride - 2
    padding + dilation (R - 1) + output_padding + 1, W' likewise. ValueError where the groups do not
    divide the channels."""

    axes = 2
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if padding_mode != "zeros":
            name = type(self).__name__
            raise ValueError(f"{name}: expected padding_mode 'zeros', got {padding_mode!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, dtype
        )
        self.padding = self._numbers("padding", padding)
        self.output_padding = self._numbers("output_padding", output_padding)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return (N, out_channels, H', W'), with those last extents that `output_size` gives.
        ValueError where they cannot be reached."""
        return (conv_transpose1d, conv_transpose2d, conv_transpose3d)[self.axes - 1](
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding if output_size is None else self._missing(x, output_size),
            self.groups,
            self.dilation,
        )

    def _missing(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """Return the output_padding that gives the last extents of an `output_size`."""
        wanted, missing = tuple(output_size)[-self.axes :], []
        for i, extent in enumerate(x.shape[-self.axes :]):
            least = (extent - 1) * self.stride[i] - 2 * self.padding[i] + 1
            least += self.dilation[i] * (self.kernel_size[i] - 1)
            if len(wanted) < self.axes or not 0 <= wanted[i] - least < self.stride[i]:
                raise ValueError(
                    f"{type(self).__name__}: expected an output_size from {least} to "
                    f"{least + self.stride[i] - 1} along axis {i - self.axes}, got {output_size}"
                )
            missing.append(wanted[i] - least)
        return tuple(missing)


class ConvTranspose1d(ConvTranspose2d):
    """`ConvTranspose2d` of signals: weight (in_channels, out_channels / groups, S)."""

    axes = 1


class ConvTranspose3d(ConvTranspose2d):
    """`ConvTranspose2d` of volumes: weight (in_channels, out_channels / groups, T, R, S)."""

    axes = 3


class Flatten(Module):
    """Merges the axes start_dim to end_dim into one; by default all but the batch's."""

    shown = ("start_dim", "end_dim")

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x with fewer axes."""
        return x.flatten(self.start_dim, self.end_dim)


class Unflatten(Module):
    """Turns the axis `dim` into several of the extents `unflattened_size`, one of which may be
    -1."""

    shown = ("dim", "unflattened_size")

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with more axes."""
        return x.unflatten(self.dim, self.unflattened_size)


class Identity(Module):
    """Returns its input: a placeholder, such as a shortcut without weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x
