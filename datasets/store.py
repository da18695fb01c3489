"""Images where they are stored, and views of them: what own data sets are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .source import DataError, Ids, Moments, Pixels

PIECE = 8 << 20  # bytes of images that are read at a time
MEASURED = 1 << 28  # bytes of images, evenly spread, that mean and std are taken from


class Store(Protocol):
    """Images in memory, in a file or in many."""

    @property
    def where(self) -> str:
        """The file or folder, for messages."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C), called from several threads."""


@dataclass(frozen=True)
class ArrayStore:
    """Images (N, H, W, C) in memory."""

    where: str
    images: Pixels

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        count, height, width, channels = self.images.shape
        return count, height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        return self.images.dtype

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C)."""
        return self.images[indices]


@dataclass(frozen=True)
class Part:
    """The images `indices` (n,) of a store, in that order."""

    store: Store
    indices: Ids

    @property
    def where(self) -> str:
        """The file or folder, for messages."""
        return self.store.where

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, H, W, C)."""
        return len(self.indices), *self.store.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        return self.store.dtype

    def read(self, indices: Ids) -> Pixels:
        """Return images (m,) of the part in a new array (m, H, W, C)."""
        return self.store.read(self.indices[indices])


def size_of(store: Store) -> int:
    """Return the bytes of all images."""
    return math.prod(store.shape) * store.dtype.itemsize


def pieces(store: Store, step: int = 1) -> Iterator[Pixels]:
    """Yield every `step`-th image in order, some at a time."""
    indices = np.arange(0, store.shape[0], step)
    count = max(1, PIECE // max(1, math.prod(store.shape[1:]) * store.dtype.itemsize))
    for start in range(0, len(indices), count):
        yield store.read(indices[start : start + count])


def held(store: Store) -> ArrayStore:
    """Return a store whose images are all in memory."""
    if isinstance(store, ArrayStore):
        return store
    images = np.empty(store.shape, store.dtype)
    start = 0
    for piece in pieces(store):
        images[start : start + len(piece)] = piece
        start += len(piece)
    return ArrayStore(store.where, images)


def measure(store: Store) -> Moments:
    """Return mean and standard deviation of each channel, of bytes divided by 255.

    They are taken from up to `MEASURED` bytes of images, evenly spread over all. The sums of bytes
    are exact and therefore the same on any machine. A constant channel gets the deviation 1.
    """
    total = squares = shift = np.zeros(store.shape[3])
    count = 0
    for piece in pieces(store, -(-size_of(store) // MEASURED)):
        values = piece.reshape(-1, store.shape[3]).astype(np.float64)
        if piece.dtype != np.uint8:
            shift = values.mean(0) if count == 0 else shift
            values -= shift
        total, squares = total + values.sum(0), squares + (values * values).sum(0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean * mean, 0))
    unit = 255 if store.dtype == np.uint8 else 1
    std[std < 1e-12] = unit
    return tuple(((mean + shift) / unit).tolist()), tuple((std / unit).tolist())


def pixels(array: NDArray[Any]) -> Pixels:
    """Return bytes as they are, and other numbers as float32."""
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def check_finite(images: Pixels, where: str, indices: Ids) -> Pixels:
    """Return images (n, ...). DataError, which names the first sample, for one that has NaN or
    infinity."""
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        wrong = int(np.argmin(np.isfinite(images).reshape(len(images), -1).all(1)))
        values = images[wrong]
        raise DataError(
            f"{where}: image {indices[wrong]}: expected finite numbers, "
            f"got {values[~np.isfinite(values)][0]}"
        )
    return images


def channels_last_view(shape: tuple[int, ...], size: tuple[int, int] | None) -> tuple[Any, ...]:
    """Return how an array of images becomes (N, H, W, C): the shape for `reshape`, then the axes
    for `transpose`. None as the first entry if images of such a shape are not known.

    The channels of four axes are the smaller of the second and the last. Rows of numbers (N, D) are
    images of `size` if they have as many pixels, plane by plane; otherwise D channels of one pixel,
    so that each number has a mean of its own.
    """
    count, *rest = shape
    if len(rest) == 1:
        area = size[0] * size[1] if size else 0
        if area and rest[0] % area == 0:
            return (count, rest[0] // area, *(size or ())), (0, 2, 3, 1)
        return (count, rest[0], 1, 1), (0, 2, 3, 1)
    if len(rest) == 2:
        return (count, 1, *rest), (0, 2, 3, 1)
    if len(rest) == 3:
        return shape, (0, 2, 3, 1) if rest[0] < rest[2] else (0, 1, 2, 3)
    return None, ()


def kind_of(dtype: DTypeLike) -> np.dtype[Any] | None:
    """Return the element type that images of a type are read as, None for what holds no numbers."""
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return kind
    return np.dtype(np.float32) if kind.kind in "biuf" else None


def array_store(where: str, array: NDArray[Any], size: tuple[int, int] | None) -> ArrayStore:
    """Return images from an array of a form that is known; see `channels_last_view`. DataError for
    others, and for NaN."""
    shape, axes = channels_last_view(array.shape, size) if array.ndim > 1 else (None, ())
    if shape is None or kind_of(array.dtype) is None:
        raise DataError(
            f"{where}: expected numbers (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D), "
            f"got {array.dtype} {array.shape}"
        )
    images = pixels(np.ascontiguousarray(array.reshape(shape).transpose(axes)))
    return ArrayStore(where, check_finite(images, where, np.arange(len(images))))
