"""Random augmentation, keyed by sample and epoch: independent of rank and batch.

An augmentation takes images (n, H, W, C), uint8 or float, and one uint64 key per image. It returns
new images and does not modify its argument. `fill` is the value of pixels outside the image: after
normalisation 0, which is the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..autograd.splitmix64 import output, words
from ..trainer.errors import nearest
from .source import DataError, Ids

Images = NDArray[Any]
Keys = NDArray[np.uint64]

WORD = (1 << 64) - 1


class Augment(Protocol):
    """What a Loader accepts in `augment`. Its keys are others in each epoch; one with an attribute
    `alternates` that is true gets the same ones in all, but for their last bits, which change from
    epoch to epoch."""

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
    """Pad by `pad` pixels on every side, and crop to the original size at a random position.

    With `reflect`, the border mirrors the image instead of being filled.
    """

    pad: int
    reflect: bool = False

    def __post_init__(self) -> None:
        if self.pad < 1:
            raise DataError(f"PadCrop: expected pad of at least 1, got {self.pad}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Crop images (n, H, W, C); all (2 pad + 1)^2 positions are equally likely."""
        count, height, width, channels = images.shape
        pad = self.pad
        if self.reflect:
            around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
            padded = np.pad(images, around, "reflect") if count else images
        else:
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
    """Flip horizontally, or vertically, with probability `p`."""

    p: float = 0.5
    vertical: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise DataError(f"Flip: expected p in [0, 1], got {self.p}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Flip images (n, H, W, C) along W or H; `fill` is unused."""
        result = images.copy()
        chosen = uniform(keys, 0) < self.p
        result[chosen] = images[chosen, ::-1] if self.vertical else images[chosen, :, ::-1]
        return result


@dataclass(frozen=True)
class AlternatingFlip:
    """Flip half of the images horizontally in even epochs, the other half in odd ones.

    So each image is seen both ways in two epochs in a row (Jordan 2024)."""

    alternates = True

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Flip images (n, H, W, C) whose key is odd along W; `fill` is unused."""
        result = images.copy()
        chosen = keys & np.uint64(1) == 1
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


@dataclass(frozen=True)
class ResizedCrop:
    """Cut out a random part, `least` to all of the area, and scale it to the original size.

    Its ratio of width to height is 3/4 to 4/3 of the image's. Inception's augmentation: Szegedy et
    al. 2015, https://arxiv.org/abs/1409.4842, section 6.
    """

    least: float = 0.08

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise DataError(f"ResizedCrop: expected least in (0, 1], got {self.least}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Crop and scale images (n, H, W, C) bilinearly; `fill` is unused."""
        height, width = images.shape[1:3]
        area = self.least + (1 - self.least) * uniform(keys, 0)
        # From 3/4 to 4/3 with equal chances of a ratio and its inverse, without a logarithm.
        draw = uniform(keys, 1)
        ratio = np.where(draw < 0.5, 0.75 + 0.5 * draw, 1 / (1.25 - 0.5 * draw))
        high = np.minimum(np.sqrt(area / ratio), 1) * height
        wide = np.minimum(np.sqrt(area * ratio), 1) * width
        top, left = uniform(keys, 2) * (height - high), uniform(keys, 3) * (width - wide)
        rows = _centers(top, high, height)[:, :, None]
        columns = _centers(left, wide, width)[:, None, :]
        return _sample(images, rows, columns, None)


@dataclass(frozen=True)
class Rotate:
    """Rotate around the middle by a random angle of up to `degrees` in both directions."""

    degrees: float = 15.0

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 90:
            raise DataError(f"Rotate: expected degrees in (0, 90], got {self.degrees}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Rotate images (n, H, W, C) bilinearly; what comes from outside them is `fill`."""
        height, width = images.shape[1:3]
        # The tangent of half the angle: sine and cosine are then the same on any machine.
        most = np.tan(np.deg2rad(self.degrees) / 2)
        half = (2 * uniform(keys, 0) - 1)[:, None, None] * most
        y = (np.arange(height) - (height - 1) / 2)[None, :, None]
        x = (np.arange(width) - (width - 1) / 2)[None, None, :]
        cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
        rows = cosine * y + sine * x + (height - 1) / 2
        columns = cosine * x - sine * y + (width - 1) / 2
        return _sample(images, rows, columns, fill)


@dataclass(frozen=True)
class Brightness:
    """Add a random number of up to `most` standard deviations to all pixels of an image."""

    most: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.most < 100:
            raise DataError(f"Brightness: expected most in (0, 100), got {self.most}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Brighten or darken normalised images (n, H, W, C); `fill` is unused."""
        change = self.most * (2 * uniform(keys, 0) - 1)
        result: Images = images + change.astype(images.dtype)[:, None, None, None]
        return result


@dataclass(frozen=True)
class Contrast:
    """Multiply the distance of all pixels from an image's mean by a factor of 1 - `most` to
    1 + `most`."""

    most: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1:
            raise DataError(f"Contrast: expected most in (0, 1], got {self.most}")

    def __call__(self, images: Images, keys: Keys, fill: float = 0) -> Images:
        """Change the contrast of normalised images (n, H, W, C); `fill` is unused."""
        factor = 1 + self.most * (2 * uniform(keys, 0) - 1)
        mean = images.mean((1, 2, 3), dtype=np.float64, keepdims=True).astype(images.dtype)
        result: Images = mean + (images - mean) * factor.astype(images.dtype)[:, None, None, None]
        return result


def _centers(start: NDArray[Any], length: NDArray[Any], count: int) -> NDArray[Any]:
    """Return where `count` pixels lie that divide each stretch of the old pixels, (n, count)."""
    steps = (np.arange(count) + 0.5) / count
    places: NDArray[Any] = start[:, None] + steps * length[:, None] - 0.5
    return places


def _sample(
    images: Images, rows: NDArray[Any], columns: NDArray[Any], fill: float | None
) -> Images:
    """Interpolate images (n, H, W, C) at places (n, H, W); outside them is `fill`, or with None the
    nearest pixel."""
    count, height, width, channels = images.shape
    rows, columns = np.broadcast_arrays(rows, columns)
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top).astype(images.dtype), (columns - left).astype(images.dtype)
    flat = images.reshape(count * height * width, channels)
    base = np.arange(count)[:, None, None] * (height * width)
    result = np.zeros((*rows.shape, channels), images.dtype)
    for i, row_weight in ((0, 1 - down), (1, down)):
        for j, column_weight in ((0, 1 - right), (1, right)):
            y, x = (top + i).astype(np.int64), (left + j).astype(np.int64)
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            place = base + y.clip(0, height - 1) * width + x.clip(0, width - 1)
            values = flat[place]
            if fill is not None:
                values[~inside] = fill
            result += values * (row_weight * column_weight)[..., None]
    return result


Shape = tuple[int, int, int]
BARE: dict[str, Callable[[], Augment]] = {"alternate": AlternatingFlip}  # by name
# By name: what makes it from a number, that number for images (C, H, W) where none is given, and
# whether it is whole.
NAMED: dict[str, tuple[Callable[[Any], Augment], Callable[[Shape], float], bool]] = {
    "crop": (PadCrop, lambda shape: max(1, shape[1] // 8), True),
    "reflect": (partial(PadCrop, reflect=True), lambda shape: max(1, shape[1] // 8), True),
    "flip": (Flip, lambda shape: 0.5, False),
    "vflip": (partial(Flip, vertical=True), lambda shape: 0.5, False),
    "cutout": (Cutout, lambda shape: max(shape[2] // 2, 1), True),
    "resized": (ResizedCrop, lambda shape: 0.08, False),
    "rotate": (Rotate, lambda shape: 15.0, False),
    "brightness": (Brightness, lambda shape: 0.4, False),
    "contrast": (Contrast, lambda shape: 0.4, False),
}


def standard(name: str) -> tuple[Augment, ...]:
    """Return the usual augmentation of a data set: PadCrop(4) and Flip() for CIFAR, else none."""
    return (PadCrop(4), Flip()) if name.startswith("cifar") else ()


def parse_augment(text: str, name: str = "", shape: Shape = (1, 64, 64)) -> tuple[Augment, ...]:
    """Return the augmentations that a list such as "crop=4,flip,cutout" names, for images (C, H, W)
    of a data set. Among them, "standard" stands for those of `standard`; "none" stands alone.

    Raises DataError for an unknown name, with the nearest, and for a number out of range.
    """
    names = [word.strip() for word in text.split(",")]
    if names == ["none"]:
        return ()
    result: list[Augment] = []
    for word in names:
        if word == "standard":
            result += standard(name)
            continue
        kind, equals, number = word.partition("=")
        if kind in BARE:
            if equals:
                raise DataError(f"--augment: {kind}: expected no number, got {number!r:.60}")
            result.append(BARE[kind]())
            continue
        if kind not in NAMED:
            known = (*NAMED, *BARE, "standard")
            raise DataError(f"--augment: unknown {kind!r}{nearest(kind, known)}")
        result.append(_made(word, shape))
    return tuple(result)


def _made(word: str, shape: Shape) -> Augment:
    kind, equals, number = word.partition("=")
    make, usual, whole = NAMED[kind]
    value = _number(word, number, whole) if equals else usual(shape)
    try:
        return make(value)
    except DataError as error:
        raise DataError(f"--augment: {word}: {error}") from error


def _number(word: str, text: str, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        kind = "a whole number" if whole else "a number"
        raise DataError(f"--augment: {word}: expected {kind}, got {text!r:.60}") from error
