"""Layers that enlarge images, cut them into patches or pad them, with torch's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..dtypes import plain
from ..functional.arrange import pad
from ..functional.conv import Sizes
from ..functional.image import (
    Factors,
    channel_shuffle,
    fold,
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    unfold,
)
from ..ops.shape import integers
from ..tensor import Tensor
from .module import Module

__all__ = [
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Fold",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class Upsample(Module):
    """Images resampled to a size or by a factor, see `functional.image.interpolate`."""

    shown = ("size", "scale_factor", "mode")

    def __init__(
        self,
        size: Sizes | None = None,
        scale_factor: Factors | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, ..) of other extents."""
        return interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor,
        )  # fmt: skip


class UpsamplingNearest2d(Upsample):
    """`Upsample` that repeats the nearest pixel."""

    def __init__(self, size: Sizes | None = None, scale_factor: Factors | None = None) -> None:
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """`Upsample` by bilinear interpolation, with the corners where they are."""

    def __init__(self, size: Sizes | None = None, scale_factor: Factors | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """(.., C r^2, H, W) as (.., C, H r, W r), r the factor (Shi et al. 2016)."""

    shown = ("upscale_factor",)

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        """Return larger images of fewer channels."""
        return pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(Module):
    """`PixelShuffle` reversed."""

    shown = ("downscale_factor",)

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        """Return smaller images of more channels."""
        return pixel_unshuffle(x, self.downscale_factor)


class ChannelShuffle(Module):
    """The channels of groups in turn, see `functional.channel_shuffle`."""

    shown = ("groups",)

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return channel_shuffle(x, self.groups)


class Unfold(Module):
    """The patches of images (N, C, H, W) that windows see: (N, C R S, windows)."""

    shown: tuple[str, ...] = ("kernel_size", "dilation", "padding", "stride")

    def __init__(
        self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
    ) -> None:
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C R S, windows)."""
        return unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Unfold):
    """Patches (N, C R S, windows) added up to images (N, C, *output_size): `Unfold` transposed."""

    shown = ("output_size", *Unfold.shown)

    def __init__(
        self,
        output_size: Sizes,
        kernel_size: Sizes,
        dilation: Sizes = 1,
        padding: Sizes = 0,
        stride: Sizes = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size)."""
        options = self.kernel_size, self.dilation, self.padding, self.stride
        return fold(x, self.output_size, *options)


class _Pad(Module):
    """A border along the last `axes` axes: one width, or (left, right, top, bottom, ..)."""

    shown: tuple[str, ...] = ("padding",)
    axes: ClassVar[int]
    mode: ClassVar[str]
    value: float | None = None

    def __init__(self, padding: int | Sequence[int]) -> None:
        widths = integers((padding,))
        self.padding = widths * (2 * self.axes) if isinstance(plain(padding), int) else widths
        if len(self.padding) != 2 * self.axes:
            raise ValueError(
                f"{type(self).__name__}: expected one width or {2 * self.axes}, got {padding}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its border. ValueError for another number of axes."""
        if x.ndim not in (self.axes + 1, self.axes + 2):
            raise ValueError(
                f"{type(self).__name__}: expected an input of {self.axes + 1} or {self.axes + 2} "
                f"axes, got shape {x.shape}"
            )
        return pad(x, self.padding, self.mode, self.value)


class ConstantPad1d(_Pad):
    """A border of one value around signals; a negative width crops."""

    shown = ("padding", "value")
    axes, mode = 1, "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad2d(ConstantPad1d):
    """A border of one value around images; a negative width crops."""

    axes = 2


class ConstantPad3d(ConstantPad1d):
    """A border of one value around volumes; a negative width crops."""

    axes = 3


class ZeroPad1d(_Pad):
    """A border of zeros around signals; a negative width crops."""

    axes, mode = 1, "constant"


class ZeroPad2d(ZeroPad1d):
    """A border of zeros around images; a negative width crops."""

    axes = 2


class ZeroPad3d(ZeroPad1d):
    """A border of zeros around volumes; a negative width crops."""

    axes = 3


class ReflectionPad1d(_Pad):
    """A border of elements of signals, mirrored at the outermost one, which is not repeated."""

    axes, mode = 1, "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """A border of elements of images, mirrored at the outermost one, which is not repeated."""

    axes = 2


class ReflectionPad3d(ReflectionPad1d):
    """A border of elements of volumes, mirrored at the outermost one, which is not repeated."""

    axes = 3


class ReplicationPad1d(_Pad):
    """A border of the outermost element of signals."""

    axes, mode = 1, "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """A border of the outermost element of images."""

    axes = 2


class ReplicationPad3d(ReplicationPad1d):
    """A border of the outermost element of volumes."""

    axes = 3


class CircularPad1d(_Pad):
    """A border of elements from the other end of signals."""

    axes, mode = 1, "circular"


class CircularPad2d(CircularPad1d):
    """A border of elements from the other end of images."""

    axes = 2


class CircularPad3d(CircularPad1d):
    """A border of elements from the other end of volumes."""

    axes = 3
