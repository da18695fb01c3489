"""Pooling layers, with torch's arguments; x (N, C, H, W)."""

from __future__ import annotations

from ..functional.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from ..tensor import Tensor
from .layers import Pair, pair
from .module import Module


class MaxPool2d(Module):
    """Largest value of each window.

    Options are one number or (vertical, horizontal); the stride is the kernel size unless given.
    The border of a padded input never wins. Extents are rounded down, up with `ceil_mode`."""

    shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.padding, self.dilation, self.ceil_mode = pair(padding), pair(dilation), ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        return max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool2d(Module):
    """Mean of each window.

    Options as for MaxPool2d; with `count_include_pad` the zeros of the border count as values."""

    shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.padding, self.ceil_mode = pair(padding), ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        return avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class _Adaptive(Module):
    shown = ("output_size",)

    def __init__(self, output_size: int | Pair) -> None:
        self.output_size = pair(output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """Mean over windows chosen so that the result is `output_size`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        return adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive):
    """Largest value over windows chosen so that the result is `output_size`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        y = adaptive_max_pool2d(x, self.output_size)
        assert isinstance(y, Tensor)  # not asked for positions
        return y
