"""Random changes to images, keyed by sample and epoch: the same on any rank and in any batch.

An augmentation is called with images (n, H, W, C), uint8 or float, and a uint64 key for each; it
returns new images and leaves its argument alone. `fill` is the value of what lies outside: zero
after normalising, which is the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..autograd.splitmix64 import output, words
from .source import DataError, Ids

Images = NDArray[Any]
Keys = NDArray[np.uint64]

WORD = (1 << 64) - 1


class Augment(Protocol):
    """Anything that can stand in a Loader's `augment`."""

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Return changed copies of images (n, H, W, C), drawing from one key for each."""


def fold(keys: Keys, value: int) -> Keys:
    """Derive other keys from keys and a number."""
    return output(keys ^ output(words([value & WORD])))


def sample_keys(seed: int, epoch: int, samples: Ids) -> Keys:
    """Return one key for each sample of an epoch."""
    base = fold(fold(np.zeros(1, np.uint64), seed), epoch)
    return output(base ^ output(words(samples)))


def uniform(keys: Keys, draw: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each key; `draw` counts the numbers one key has to give."""
    return (fold(keys, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(keys: Keys, draw: int, stop: int) -> Ids:
    """Return an integer in 0..stop-1 for each key."""
    return (uniform(keys, draw) * stop).astype(np.int64)


@dataclass(frozen=True)
class PadCrop:
    """Pad by `pad` pixels on every side and cut the old size out at a random place."""

    pad: int

    def __post_init__(self) -> None:
        if self.pad < 1:
            raise DataError(f"PadCrop({self.pad}): the padding must be at least 1")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Crop images (n, H, W, C); every one of the (2 pad + 1)^2 places is as likely."""
        count, height, width, channels = images.shape
        pad = self.pad
        wide = (count, height + 2 * pad, width + 2 * pad, channels)
        padded = np.full(wide, fill, images.dtype)
        padded[:, pad : pad + height, pad : pad + width] = images
        rows, columns = (below(keys, draw, 2 * pad + 1).tolist() for draw in (0, 1))
        result = np.empty_like(images)
        for i, (y, x) in enumerate(zip(rows, columns, strict=True)):
            result[i] = padded[i, y : y + height, x : x + width]
        return result


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise DataError(f"Flip({self.p}): the probability must be in 0..1")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Flip images (n, H, W, C) along W; `fill` is not used."""
        result = images.copy()
        chosen = uniform(keys, 0) < self.p
        result[chosen] = images[chosen, :, ::-1]
        return result


@dataclass(frozen=True)
class Cutout:
    """Blank a square of `size` pixels around a random pixel, cut off at the border.

    DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"Cutout({self.size}): the size must be at least 1")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Blank a square of images (n, H, W, C) with `fill`."""
        height, width = images.shape[1:3]
        rows = (below(keys, 0, height) - self.size // 2).tolist()
        columns = (below(keys, 1, width) - self.size // 2).tolist()
        result = images.copy()
        for i, (y, x) in enumerate(zip(rows, columns, strict=True)):
            result[i, max(y, 0) : y + self.size, max(x, 0) : x + self.size] = fill
        return result


def standard(name: str) -> tuple[Augment, ...]:
    """Return the usual augmentation of a data set: pad-crop 4 and flip for CIFAR, else none."""
    return (PadCrop(4), Flip()) if name.startswith("cifar") else ()
