"""How the windows of pooling lie over images: along each axis, which windows see the same taps, and
which pixels are seen by the same windows. `pool.py` generates one piece of code for each such run,
so that no kernel asks whether a window reaches beyond the image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from ....array import Spec
from .border import Pair

Padding: TypeAlias = tuple[Pair, Pair]


class WindowAxis(NamedTuple):
    """Windows along one axis of an image."""

    size: int  # pixels of the image
    taps: int  # of a window
    stride: int  # from one window to the next
    lead: int  # pixels by which the first window starts before the image
    dilation: int  # pixels from one tap to the next
    windows: int  # how many
    border: int = 0  # pixels around the image that count for a mean

    def inside(self, window: int) -> tuple[int, ...]:
        """Return the taps of a window that lie in the image."""
        first = window * self.stride - self.lead
        return tuple(i for i in range(self.taps) if 0 <= first + i * self.dilation < self.size)

    def counted(self, window: int) -> int:
        """Return the number of elements of a window that count."""
        first = window * self.stride - self.lead
        last = min(first + self.taps, self.size + self.border)
        return last - max(first, -self.border)


class WindowRun(NamedTuple):
    """Neighbouring windows that see the same taps of the image."""

    first: int  # window
    times: int  # how many
    taps: tuple[int, ...]  # that lie in the image
    counted: int  # elements of a window that count for a mean


class Reach(NamedTuple):
    """A window that sees a pixel."""

    tap: int  # with which it does
    window: int  # counted from the strip's current one
    counted: int  # elements of the window that count for a mean


class PixelStrip(NamedTuple):
    """Neighbouring groups of pixels that the same windows see. A group is as many pixels as windows
    are apart."""

    first: int  # pixel
    times: int  # how many groups
    step: int  # pixels from one group to the next
    advance: int  # windows from one group to the next
    window: int  # the first group's
    pixels: tuple[tuple[Reach, ...], ...]  # for each pixel of a group, the windows that see it


def runs(axis: WindowAxis, mean: bool) -> list[WindowRun]:
    """Return the windows of an axis in runs."""
    alike = groupby(range(axis.windows), lambda e: (axis.inside(e), axis.counted(e) if mean else 1))
    result = []
    for (taps, counted), group in alike:
        windows = [*group]
        result.append(WindowRun(windows[0], len(windows), taps, counted))
    return result


def strips(axis: WindowAxis, mean: bool) -> list[PixelStrip]:
    """Return the pixels of an axis in strips. A group is as many as windows are apart; one, where
    there is one window only. For a mean it is all the same which tap sees a pixel."""
    step, advance = (1, 0) if axis.windows == 1 else (axis.stride, 1)

    def pixel(h: int, group: int) -> Iterator[Reach]:
        for i in range(axis.taps):
            window, between = divmod(h + axis.lead - i * axis.dilation, axis.stride)
            if not between and 0 <= window < axis.windows:
                counted = axis.counted(window) if mean else 1
                yield Reach(0 if mean else i, window - group * advance, counted)

    def pixels(group: int) -> tuple[tuple[Reach, ...], ...]:
        start = group * step
        return tuple(tuple(pixel(h, group)) for h in range(start, min(start + step, axis.size)))

    result = []
    for seen, alike in groupby(range(-(-axis.size // step)), pixels):
        groups = [*alike]
        first = groups[0]
        result.append(PixelStrip(first * step, len(groups), step, advance, first * advance, seen))
    return result


class PoolWindows(NamedTuple):
    """A pooling of images."""

    dtype: str
    channels: int
    vertical: WindowAxis
    horizontal: WindowAxis
    largest: bool  # the largest value is taken, else the mean
    divisor: int = 0  # of a mean; 0 for the number of elements that count

    @property
    def image(self) -> tuple[int, int, int]:
        """Numbers from one image, row and pixel of x to the next."""
        h, w, c = self.vertical.size, self.horizontal.size, self.channels
        return h * w * c, w * c, c

    @property
    def out(self) -> tuple[int, int, int]:
        """Numbers from one image, row and pixel of y to the next."""
        e, f, c = self.vertical.windows, self.horizontal.windows, self.channels
        return e * f * c, f * c, c

    @property
    def size(self) -> Pair:
        """Windows along each axis."""
        return self.vertical.windows, self.horizontal.windows

    def divides(self, vertical: int, horizontal: int) -> int:
        """Return what a sum is divided by, from the elements that count along each axis."""
        return self.divisor or max(vertical * horizontal, 1)


def pooling(
    x: Spec, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, **rest: Any
) -> PoolWindows:
    """Return the windows of a pooling of x (N, C, H, W)."""
    counted, divisor = rest.get("counted"), rest.get("divisor")
    axes = []
    for i in (0, 1):
        size, (before, after) = x.shape[2 + i], padding[i]
        windows = (size + before + after - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        border = before if counted else 0
        axes.append(WindowAxis(size, kernel[i], stride[i], before, dilation[i], windows, border))
    return PoolWindows(x.dtype.name, x.shape[1], axes[0], axes[1], divisor is None, divisor or 0)
