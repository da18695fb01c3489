"""Images in the order that tiles read: [row][column][image][channel]."""

from __future__ import annotations

from typing import Any

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


class Gathered:
    """Lays out what windows of images see side by side, as (rows, columns, N, width)."""

    def __init__(self, target: Target, x: Spec, windows: Windows) -> None:
        n, c, h, w = x.shape
        self.dtype, self.windows, self.target = x.dtype, windows, target
        self.apart = {False: (h * w * c, w * c, c), True: (c, w * n * c, n * c)}
        self.kernels: dict[bool, Any] = {}

    def of(self, x: NDArray) -> NDArray:
        """Return the windows of x (N, C, H, W)."""
        first, w = x.transpose(BACK), self.windows
        ready = first.flags.c_contiguous
        source = first if ready else channels_last(x)
        y = memory.empty((*w.output, w.images, w.width), self.dtype)
        if ready not in self.kernels:
            apart = self.apart[ready]
            self.kernels[ready] = build(gathered, self.target, self.dtype.name, w, apart)
        self.kernels[ready](address(source), address(y), 0, w.output[0])
        return y
