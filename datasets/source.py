"""What a loader reads from: the protocol of a source, and data sets in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..trainer.errors import UserError

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]


class DataError(UserError, ValueError):
    """Data or options that cannot be used; its one line is shown to the user as it is."""


class Source(Protocol):
    """One split of a data set, in memory or elsewhere: all that a loader needs."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def split(self) -> str:
        """Which part of the data set: train, test or validation."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @property
    def labels(self) -> Ids:
        """The class of every sample, (N,)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in 0..1 units."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in 0..1 units."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, indices: Ids) -> Bytes:
        """Return the images of samples (n,) in a new array (n, H, W, C). Threads may call it."""


@dataclass(frozen=True)
class Facts:
    """What is known of a family before any file is read; mean and std in 0..1 units."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Dataset:
    """One split in memory.

    `images` is uint8 of shape (N, C, H, W) whose memory is channels-last: `(0, 2, 3, 1)` of it
    is contiguous. `labels` is int64 (N,). `mean` and `std` are per channel, in 0..1 units.
    """

    name: str
    split: str
    images: Bytes
    labels: Ids
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together, and bring images to channels-last memory."""
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}/{self.split}: images {self.images.shape} do not fit "
                f"labels {self.labels.shape}"
            )
        object.__setattr__(self, "images", channels_last(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        return (
            f"Dataset({self.name}/{self.split}: {len(self)} images of {shape}, "
            f"{len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def read(self, indices: Ids) -> Bytes:
        """Return the images of samples (n,) in a new array (n, H, W, C)."""
        return self.images.transpose(0, 2, 3, 1)[indices]

    def subset(self, indices: Ids, split: str) -> Dataset:
        """Return a copy of the samples of `indices` (int64 (n,)), in that order, as a split of its
        own."""
        return replace(self, split=split, images=self.images[indices], labels=self.labels[indices])


def assemble(name: str, split: str, images: Bytes, labels: Ids, facts: Facts) -> Dataset:
    """Join arrays and the facts of their family into a Dataset."""
    return Dataset(name, split, images, labels, facts.classes, facts.mean, facts.std)


def channels_last(images: Bytes) -> Bytes:
    """Return (N, C, H, W) images whose memory runs N, H, W, C; copies only where it must."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def checked_labels(values: NDArray[np.generic], classes: int, where: str) -> Ids:
    """Return labels as int64, or name the first one that is not in 0..classes-1."""
    labels = values.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: label {labels[wrong[0]]} at index {wrong[0]}, expected 0..{classes - 1}"
        )
    return labels
