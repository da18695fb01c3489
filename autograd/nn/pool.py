"""Pooling layers, with torch's arguments.

x is (N, C, H, W) or (C, H, W); for signals (N, C, L) or (C, L), for volumes (N, C, D, H, W) or (C,
D, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from ..functional import pool, unpool, volume
from ..functional.conv import Sizes, sizes
from ..tensor import Tensor
from .module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


Function: TypeAlias = Callable[..., Any]


class _Pool(Module):
    """Windows of `axes` axes, and the function that pools over them."""

    axes: ClassVar[int] = 2
    function: ClassVar[Function]

    def _lay(self, kernel_size: Sizes, stride: Sizes | None) -> None:
        self.kernel_size = self._numbers("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else self._numbers("stride", stride, 1)

    def _numbers(self, option: str, value: Sizes, least: int = 0) -> tuple[int, ...]:
        return sizes(f"{type(self).__name__}: {option}", value, self.axes, least)


class MaxPool2d(_Pool):
    """The largest value of each window.

    Options are one number or (vertical, horizontal); the stride is the kernel size unless given.
    Padding never wins. Extents are rounded down, or up with `ceil_mode`. With `return_indices`,
    calls also return the positions within the image, row by row."""

    shown = ("kernel_size", "stride", "padding")
    function: ClassVar[Function] = staticmethod(pool.max_pool2d)

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self._lay(kernel_size, stride)
        self.padding, self.ceil_mode = self._numbers("padding", padding), ceil_mode
        self.dilation = self._numbers("dilation", dilation, 1)
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return (N, C, H', W'), and with `return_indices` the positions in the same shape."""
        options = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        result: Tensor | tuple[Tensor, Tensor]
        result = type(self).function(x, *options, return_indices=self.return_indices)
        return result


class MaxPool1d(MaxPool2d):
    """`MaxPool2d` of signals."""

    axes = 1
    function: ClassVar[Function] = staticmethod(pool.max_pool1d)


class MaxPool3d(MaxPool2d):
    """`MaxPool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(volume.max_pool3d)


class MaxUnpool2d(_Pool):
    """An image of zeros with the results of `MaxPool2d` at the positions it returned; the options
    are its."""

    shown = ("kernel_size", "stride", "padding")
    function: ClassVar[Function] = staticmethod(unpool.max_unpool2d)

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        self._lay(kernel_size, stride)
        self.padding = self._numbers("padding", padding)

    def forward(
        self, x: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        """Return (N, C, H', W'), see `functional.max_unpool2d`."""
        options = self.kernel_size, self.stride, self.padding
        y: Tensor = type(self).function(x, indices, *options, output_size)
        return y


class MaxUnpool1d(MaxUnpool2d):
    """`MaxUnpool2d` of signals."""

    axes = 1
    function: ClassVar[Function] = staticmethod(unpool.max_unpool1d)


class MaxUnpool3d(MaxUnpool2d):
    """`MaxUnpool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(unpool.max_unpool3d)


class AvgPool2d(_Pool):
    """The mean of each window.

    Options are those of MaxPool2d. With `count_include_pad` the zeros of the padding count as
    values; `divisor_override` divides the sums instead of the windows' size."""

    shown = ("kernel_size", "stride", "padding")
    function: ClassVar[Function] = staticmethod(pool.avg_pool2d)

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self._lay(kernel_size, stride)
        self.padding, self.ceil_mode = self._numbers("padding", padding), ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        options = self.kernel_size, self.stride, self.padding, self.ceil_mode
        divisor = () if self.axes == 1 else (self.divisor_override,)
        y: Tensor = type(self).function(x, *options, self.count_include_pad, *divisor)
        return y


class AvgPool1d(AvgPool2d):
    """`AvgPool2d` of signals, without `divisor_override`."""

    axes = 1
    function: ClassVar[Function] = staticmethod(pool.avg_pool1d)

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)


class AvgPool3d(AvgPool2d):
    """`AvgPool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(volume.avg_pool3d)


class LPPool2d(_Pool):
    """The p-norm of each window, (sum of x^p)^(1/p) with p = `norm_type`, as in torch without
    absolute values."""

    shown = ("norm_type", "kernel_size", "stride")
    function: ClassVar[Function] = staticmethod(pool.lp_pool2d)

    def __init__(
        self,
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self._lay(kernel_size, stride)
        self.norm_type, self.ceil_mode = norm_type, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        options = self.norm_type, self.kernel_size, self.stride, self.ceil_mode
        y: Tensor = type(self).function(x, *options)
        return y


class LPPool1d(LPPool2d):
    """`LPPool2d` of signals."""

    axes = 1
    function: ClassVar[Function] = staticmethod(pool.lp_pool1d)


class LPPool3d(LPPool2d):
    """`LPPool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(volume.lp_pool3d)


class AdaptiveAvgPool2d(_Pool):
    """The mean over windows laid out so that the result has the extent `output_size`.

    None keeps an extent; 1 is global average pooling."""

    shown = ("output_size",)
    function: ClassVar[Function] = staticmethod(pool.adaptive_avg_pool2d)

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        many = output_size if isinstance(output_size, Sequence) else (output_size,) * self.axes
        self.output_size = tuple(many)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        y: Tensor = type(self).function(x, self.output_size)
        return y


class AdaptiveAvgPool1d(AdaptiveAvgPool2d):
    """`AdaptiveAvgPool2d` of signals."""

    axes = 1
    function: ClassVar[Function] = staticmethod(pool.adaptive_avg_pool1d)


class AdaptiveAvgPool3d(AdaptiveAvgPool2d):
    """`AdaptiveAvgPool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(volume.adaptive_avg_pool3d)


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """The largest value over windows laid out so that the result has the extent `output_size`.

    None keeps an extent; `return_indices` adds the places of the values."""

    function: ClassVar[Function] = staticmethod(pool.adaptive_max_pool2d)

    def __init__(
        self, output_size: int | Sequence[int | None] | None, return_indices: bool = False
    ) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Any:
        """Return (N, C, *output_size), and with `return_indices` the places, in the same shape."""
        return type(self).function(x, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """`AdaptiveMaxPool2d` of signals."""

    axes = 1
    function: ClassVar[Function] = staticmethod(pool.adaptive_max_pool1d)


class AdaptiveMaxPool3d(AdaptiveMaxPool2d):
    """`AdaptiveMaxPool2d` of volumes."""

    axes = 3
    function: ClassVar[Function] = staticmethod(volume.adaptive_max_pool3d)
