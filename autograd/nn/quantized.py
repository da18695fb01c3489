"""Layers of 8-bit integers for inference, which `autograd.quantize` puts in the place of others."""

from __future__ import annotations

import numpy as np

from ..array import array
from ..functional.arrange import where
from ..functional.conv import convolve
from ..ops import quantized as ops
from ..ops.shape import converted
from ..tensor import Tensor
from .layers import Conv2d, Linear
from .module import Module

TINY = 1e-30  # magnitudes up to here count as 0: the reciprocal of a scale must not overflow

__all__ = ["QuantizedConv2d", "QuantizedLinear"]


def scale_of(largest: Tensor, signed: bool) -> Tensor:
    """Return what 1 stands for if the largest integer stands for `largest`; 1 where that is 0."""
    return where(largest > TINY, largest / ops.LEVELS[signed], 1.0)


def channels_last(weight: Tensor) -> Tensor:
    """Return filters whose channels lie side by side in memory, as those of images do."""
    if weight.ndim < 3 or not weight.array.has_numbers:
        return weight
    return Tensor(
        array(np.moveaxis(np.ascontiguousarray(np.moveaxis(weight.numpy(), 1, -1)), -1, 1))
    )


class _Quantized(Module):
    """Weights of a layer as integers with a scale for each filter, and the scale of its input.

    `weight` is int8, of `Linear` or `Conv2d`'s shape, `bias` (M,) floating-point, or None. An
    integer of the input stands for `input_scale` (), a sum of products for `scale` (M,). An input
    that is not `signed` has no negative numbers; its scale has another name in the state, so that
    one is not loaded for the other."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, input_scale: Tensor, signed: bool
    ) -> None:
        largest = weight.abs().amax(tuple(range(1, weight.ndim)))
        scale = scale_of(largest, signed=True)
        each = scale.reshape(len(scale), *(1 for _ in weight.shape[1:]))
        self.signed = signed
        self.register_buffer("weight", channels_last(ops.quantize(weight, each, scale)[0]))
        self.register_buffer("bias", bias)
        self.register_buffer("signed_scale" if signed else "unsigned_scale", input_scale)
        self.register_buffer("scale", input_scale * scale)

    @property
    def input_scale(self) -> Tensor:
        """What 1 stands for in an input (); of the type of the layer's results."""
        found: Tensor = getattr(self, "signed_scale" if self.signed else "unsigned_scale")
        return found

    def _round(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return what a primitive takes: x and the weight as integers, and the scale, and the bias,
        if any. The scale is NaN if x has infinities or NaN, so that results are."""
        one = self.input_scale
        numbers = converted(x.detach(), one.dtype)  # nothing here has a derivative
        q, scale = ops.quantize(numbers, one, self.scale, signed=self.signed)
        return q, self.weight, (scale,) if self.bias is None else (scale, self.bias)


class QuantizedLinear(_Quantized):
    """`Linear` by exact products of integers."""

    shown = ("in_features", "out_features", "signed")

    def __init__(
        self, layer: Linear, weight: Tensor, bias: Tensor | None, input_scale: Tensor, signed: bool
    ) -> None:
        super().__init__(weight, bias, input_scale, signed)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return (.., out_features)."""
        q, weight, vectors = self._round(x)
        y: Tensor = ops.quantized_linear(q, weight, *vectors)
        return y


class QuantizedConv2d(_Quantized):
    """`Conv2d`, or `Conv1d`, by exact products of integers."""

    shown = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups", "signed")

    def __init__(
        self, layer: Conv2d, weight: Tensor, bias: Tensor | None, input_scale: Tensor, signed: bool
    ) -> None:
        super().__init__(weight, bias, input_scale, signed)
        self.axes = layer.axes
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H', W')."""
        return convolve(
            ops.quantized_conv2d, f"conv{self.axes}d", self.axes, *self._round(x),
            self.stride, self.padding, self.dilation, self.groups,
        )  # fmt: skip
