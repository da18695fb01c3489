"""Random augmentation, keyed by sample and epoch: independent of rank and batch.

An augmentation takes images (n, H, W, C), uint8 or float, and one uint64 key per image. It returns
new images and does not modify its argument. `fill` is the value of pixels outside the image: after
normalisation 0, which is the mean.
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
    """What a Loader accepts in `augment`."""

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Return augmented copies of images (n, H, W, C), each drawn from its own key (n,)."""


def fold(keys: Keys, value: int) -> Keys:
    """Derive independent keys from keys (n,) and a number, such as the position of a draw."""
    return output(keys ^ output(words([value & WORD])))


def sample_keys(seed: int, epoch: int, samples: Ids) -> Keys:
    """Return one key per sample number (n,), different in every epoch."""
    base = fold(fold(np.zeros(1, np.uint64), seed), epoch)
    return output(base ^ output(words(samples)))


def uniform(keys: Keys, draw: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each key; `draw` numbers the draws from one key."""
    # The upper 53 bits: as many as a float64 holds, so that every result is exact.
    return (fold(keys, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(keys: Keys, draw: int, stop: int) -> Ids:
    """Return an integer in [0, stop) for each key; `draw` as in `uniform`."""
    return (uniform(keys, draw) * stop).astype(np.int64)


@dataclass(frozen=True)
class PadCrop:
    """Pad by `pad` pixels on every side, and crop to the original size at a random position."""

    pad: int

    def __post_init__(self) -> None:
        if self.pad < 1:
            raise DataError(f"PadCrop: expected pad of at least 1, got {self.pad}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Crop images (n, H, W, C); all (2 pad + 1)^2 positions are equally likely."""
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
    """Flip horizontally with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise DataError(f"Flip: expected p in [0, 1], got {self.p}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Flip images (n, H, W, C) along W; `fill` is unused."""
        result = images.copy()
        chosen = uniform(keys, 0) < self.p
        result[chosen] = images[chosen, :, ::-1]
        return result


@dataclass(frozen=True)
class Cutout:
    """Blank a square, `size` pixels wide, around a random pixel; it is clipped at the border.

    DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"Cutout: expected size of at least 1, got {self.size}")

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
    """Return the usual augmentation of a data set: PadCrop(4) and Flip() for CIFAR, else none."""
    return (PadCrop(4), Flip()) if name.startswith("cifar") else ()
