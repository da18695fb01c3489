"""Images in the order that tiles read: [row][column][image][channel]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.pixels import Windows, gathered, swapped
from ..runtime import memory
from ..runtime.layout import address, channels_last

BACK = (2, 3, 0, 1)  # axes of (N, C, H, W) in that order, and the other way round


def new_pixels(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    """Return an uninitialised array (N, C, H, W) that lies so."""
    n, c, h, w = shape
    return memory.empty((h, w, n, c), dtype).transpose(BACK)


class Pixels:
    """Brings arrays (N, C, H, W) of one shape into that order."""

    def __init__(self, target: Target, x: Spec) -> None:
        self.shape, self.dtype = x.shape, x.dtype
        self.swap = build(swapped, target, x.dtype.name, x.shape[1])

    def of(self, x: NDArray) -> NDArray:
        """Return x as (H, W, N, C); a copy only where it does not lie so already."""
        turned = x.transpose(BACK)
        if turned.flags.c_contiguous:
            return turned
        source, (n, c, h, w) = channels_last(x), self.shape
        y = memory.empty((h, w, n, c), self.dtype)
        self.swap(address(source), address(y), n, h * w)
        return y


Some: TypeAlias = tuple[int, int]  # the first, and how many
Lay: TypeAlias = Callable[[Some, Some, int], None]  # windows of images, and of rows, to an address


class Gathered:
    """Lays out what windows of images see side by side, as (rows, columns, N, width)."""

    def __init__(self, target: Target, x: Spec, windows: Windows) -> None:
        n, c, h, w = x.shape
        self.dtype, self.windows, self.target = x.dtype, windows, target
        self.apart = {False: (h * w * c, w * c, c), True: (c, w * n * c, n * c)}
        self.kernels: dict[tuple[bool, int], Any] = {}

    def line(self, images: int) -> int:
        """Return the bytes of a row of windows of so many images."""
        return images * self.windows.output[1] * self.windows.width * self.dtype.itemsize

    def of(self, x: NDArray) -> NDArray:
        """Return the windows of x (N, C, H, W)."""
        w = self.windows
        y = memory.empty((*w.output, w.images, w.width), self.dtype)
        self.by_rows(x, w.images)((0, w.images), (0, w.output[0]), address(y))
        return y

    def by_rows(self, x: NDArray, *counts: int) -> Lay:
        """Return what lays out rows of windows of some images of x (N, C, H, W), as many as one of
        the `counts`."""
        first = x.transpose(BACK)
        ready = first.flags.c_contiguous
        source, apart = first if ready else channels_last(x), self.apart[ready]
        kernels = {count: self._kernel(ready, count) for count in counts}

        def lay(images: Some, rows: Some, to: int) -> None:
            before = images[0] * apart[0] * self.dtype.itemsize
            to -= rows[0] * self.line(images[1])  # where the first of all rows would be
            kernels[images[1]](address(source) + before, to, *rows)

        return lay

    def _kernel(self, ready: bool, images: int) -> Any:
        if (ready, images) not in self.kernels:
            some = self.windows._replace(images=images)
            function = build(gathered, self.target, self.dtype.name, some, self.apart[ready])
            self.kernels[ready, images] = function
        return self.kernels[ready, images]
