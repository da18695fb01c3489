"""Pooling layers, with torch's arguments; x is (N, C, H, W) or (C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence

from ..functional.conv import Sizes, pair
from ..functional.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from ..tensor import Tensor
from .module import Module

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "MaxPool2d"]


class MaxPool2d(Module):
    """The largest value of each window.

    Options are one number or (vertical, horizontal); the stride is the kernel size unless given.
    Padding never wins. Extents are rounded down, or up with `ceil_mode`. With `return_indices`,
    calls also return the positions within the image, row by row."""

    shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        name = type(self).__name__
        self.kernel_size = pair(f"{name}: kernel_size", kernel_size, least=1)
        sizes = self.kernel_size if stride is None else stride
        self.stride = pair(f"{name}: stride", sizes, least=1)
        self.padding, self.ceil_mode = pair(f"{name}: padding", padding), ceil_mode
        self.dilation = pair(f"{name}: dilation", dilation, least=1)
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return (N, C, H', W'), and with `return_indices` the positions in the same shape."""
        options = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        if self.return_indices:
            return max_pool2d(x, *options, return_indices=True)
        return max_pool2d(x, *options)


class AvgPool2d(Module):
    """The mean of each window.

    Options are those of MaxPool2d. With `count_include_pad` the zeros of the padding count as
    values; `divisor_override` divides the sums instead of the windows' size."""

    shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        name = type(self).__name__
        self.kernel_size = pair(f"{name}: kernel_size", kernel_size, least=1)
        sizes = self.kernel_size if stride is None else stride
        self.stride = pair(f"{name}: stride", sizes, least=1)
        self.padding, self.ceil_mode = pair(f"{name}: padding", padding), ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        return avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _Adaptive(Module):
    shown = ("output_size",)

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        sizes = output_size if isinstance(output_size, Sequence) else (output_size,) * 2
        self.output_size = tuple(sizes)


class AdaptiveAvgPool2d(_Adaptive):
    """The mean over windows laid out so that the result has the extent `output_size`.

    None keeps an extent; 1 is global average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        return adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive):
    """The largest value over windows laid out so that the result has the extent `output_size`.

    None keeps an extent."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        y = adaptive_max_pool2d(x, self.output_size)
        assert isinstance(y, Tensor)  # not asked for positions
        return y
