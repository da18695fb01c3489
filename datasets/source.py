"""What a loader reads: the protocol `Source`, data sets in memory, and parts of either."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..trainer.errors import UserError

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]
Pixels = NDArray[Any]  # uint8 or float32
Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, as in Source


class DataError(UserError, ValueError):
    """Unusable data or options. The message is one line, which users see as it is."""


class Source(Protocol):
    """One split of a data set, in memory or elsewhere: what a loader needs of it."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def split(self) -> str:
        """Name of the split: train, test or validation."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @property
    def labels(self) -> Ids:
        """Class of each sample, int64 (N,)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel: for pixels in [0, 1] if they are bytes, else of the values."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of the same."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, indices: Ids) -> Pixels:
        """Return the images of samples (n,) in a new array (n, H, W, C), uint8 or float32.

        It is called from the loader's threads, several at a time.
        """


OF_SOURCE = ("name", "split", "input_shape", "labels", "classes", "mean", "std", "read", "__len__")


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is read: `shape` is (C, H, W) of an image.

    `mean` and `std` are per channel, for pixels in [0, 1].
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """One split in memory, which implements `Source`.

    `images` are uint8 or float32 (N, C, H, W) in channels-last memory: their transposition to
    (N, H, W, C) is contiguous. `labels` are int64 (N,). `mean` and `std` are as in `Source`. Raises
    DataError unless there is one label per image, and one mean and one std per channel.
    """

    name: str
    split: str
    images: Pixels
    labels: Ids
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that images and labels match, and convert images to channels-last memory."""
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}/{self.split}: expected images ({len(self.labels)}, C, H, W), one "
                f"per label, got {self.images.shape}"
            )
        channels = self.images.shape[1]
        if not len(self.mean) == len(self.std) == channels:
            raise DataError(
                f"{self.name}/{self.split}: expected a mean and a std for each of {channels} "
                f"channels of images (N, C, H, W), got {len(self.mean)} and {len(self.std)} for "
                f"{self.images.shape}"
            )
        object.__setattr__(self, "images", channels_last(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        return (
            f"ImageDataset({self.name}/{self.split}: {len(self)} images of {shape}, "
            f"{len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def read(self, indices: Ids) -> Pixels:
        """Return the images of samples (n,) in a new array (n, H, W, C)."""
        return self.images.transpose(0, 2, 3, 1)[indices]


@dataclass(frozen=True)
class Subset:
    """The samples `indices` (n,) of a source, in that order, as a split of another name: by default
    of the same. A source may be any object with `__len__` and `__getitem__`, for a `DataLoader`.

    DataError for indices that are no whole numbers, or that the source lacks."""

    source: Source
    indices: Ids
    split: str = ""

    def __post_init__(self) -> None:
        indices = whole_numbers(self.name, self.indices)
        count = len(self.source)
        wrong = indices[(indices < 0) | (indices >= count)]
        if len(wrong):
            raise DataError(f"{self.name}: expected indices from 0 to {count - 1}, got {wrong[0]}")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "split", self.split or getattr(self.source, "split", ""))

    @property
    def name(self) -> str:
        """Name of the data set, or of the class of the object."""
        return str(getattr(self.source, "name", type(self.source).__name__))

    @property
    def dataset(self) -> Any:
        """The source, by torch's name."""
        return self.source

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.source.input_shape

    @cached_property
    def labels(self) -> Ids:
        """Class of each sample, int64 (n,)."""
        return self.source.labels[self.indices]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel of the whole source."""
        return self.source.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel of the whole source."""
        return self.source.std

    @property
    def readers(self) -> int:
        """Threads that read the source at a time."""
        return readers(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def read(self, indices: Ids) -> Pixels:
        """Return the images of samples (n,) in a new array (n, H, W, C)."""
        return self.source.read(self.indices[indices])


def is_whole(value: object) -> bool:
    """Tell whether something is a whole number; a truth value is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_numbers(what: str, values: Any) -> Ids:
    """Return numbers of samples as an array, int64 (n,). DataError for other values."""
    try:
        indices = np.asarray(values)
    except ValueError:  # lists of several lengths
        indices = np.asarray(values, object)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise DataError(
            f"{what}: expected indices (n,) of samples, whole numbers, got {indices.dtype} of "
            f"shape {indices.shape}"
        )
    return indices.astype(np.int64, copy=False)


def readers(source: Source) -> int:
    """Return how many threads should read a source at a time: what it says, by default one."""
    return int(getattr(source, "readers", 1))


def assemble(name: str, split: str, images: Bytes, labels: Ids, facts: Facts) -> ImageDataset:
    """Build an ImageDataset from images (N, C, H, W), labels (N,) and the facts of the set."""
    return ImageDataset(name, split, images, labels, facts.classes, facts.mean, facts.std)


def channels_last(images: Pixels) -> Pixels:
    """Return images (N, C, H, W) with memory in the order N, H, W, C; copies only if needed."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def checked_labels(values: NDArray[np.generic], classes: int, where: str) -> Ids:
    """Return labels as int64. DataError, which names the first, for one not in 0..classes-1."""
    labels = values.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: label at index {wrong[0]}: expected 0 to {classes - 1}, "
            f"got {labels[wrong[0]]}"
        )
    return labels
