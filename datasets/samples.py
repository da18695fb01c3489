"""Data sets that yield sample by sample, by torch's names, and what reads a batch of one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from math import floor, isclose
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..autograd import Generator, Tensor, as_tensor, from_numpy
from ..autograd.random import numbers_of
from .collate import collate
from .loader import Normalise
from .source import OF_SOURCE, DataError, Ids, Source, Subset

T_co = TypeVar("T_co", covariant=True)


class Sized(Protocol):
    """What has samples: a `Source`, or any object with `__len__` and `__getitem__`."""

    def __len__(self) -> int:
        """Return the number of samples."""


class Dataset(Generic[T_co]):
    """Base of a data set of your own, as in torch: it has `__len__` and `__getitem__(index)`. Any
    other class that has both serves as well."""

    def __getitem__(self, index: Any) -> T_co:
        """Return a sample."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method __getitem__, got none")


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Samples are the rows of tensors or arrays of one length. DataError for other lengths."""

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tuple(as_tensor(x) for x in tensors)
        lengths = [x.shape[0] if x.shape else None for x in self.tensors]
        if not lengths or None in lengths or len({*lengths}) > 1:
            raise DataError(
                "TensorDataset: expected tensors of one length, got shapes "
                f"{', '.join(str(x.shape) for x in self.tensors) or 'of none'}"
            )

    @property
    def requires_grad(self) -> bool:
        """Whether one of the tensors does."""
        return any(x.requires_grad for x in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(x[index] for x in self.tensors)


class ConcatDataset(Dataset[Any]):
    """The samples of several data sets, one after the other. DataError for none."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = [check_samples("ConcatDataset", one) for one in datasets]
        if not self.datasets:
            raise DataError("ConcatDataset: expected at least one data set, got none")
        self.cumulative_sizes = [*accumulate(map(len, self.datasets))]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        place = range(len(self))[index]  # which raises IndexError
        part = bisect_right(self.cumulative_sizes, place)
        return self.datasets[part][place - ([0, *self.cumulative_sizes][part])]


def random_split(
    dataset: Any, lengths: Sequence[float], generator: Generator | None = None
) -> list[Subset]:
    """Split a data set at random into parts of so many samples, or of these fractions, whose sum is
    1. It draws from the generator, as in torch: all ranks must call it alike. DataError for lengths
    that do not fit."""
    count = len(dataset)
    sizes = _sizes(count, lengths)
    words = numbers_of(generator).bit_generator.random_raw(count)  # alike in every NumPy
    order = np.argsort(words, kind="stable").astype(np.int64)
    return [Subset(dataset, order[a:b]) for a, b in pairwise(accumulate(sizes, initial=0))]


def _sizes(count: int, lengths: Sequence[float]) -> list[int]:
    """Return numbers of samples; of fractions they are rounded down, and the first get the rest."""
    fits = min(lengths, default=-1) >= 0
    if fits and isclose(sum(lengths), 1) and max(lengths) <= 1:
        sizes = [floor(count * part) for part in lengths]
        return [size + (i < count - sum(sizes)) for i, size in enumerate(sizes)]
    if not fits or sum(lengths) != count or any(n != int(n) for n in lengths):
        raise DataError(
            f"random_split: expected lengths whose sum is {count}, or fractions whose sum is 1, "
            f"got {[*lengths]}"
        )
    return [int(n) for n in lengths]


def check_samples(what: str, dataset: Any, images: bool = False) -> Any:
    """Return a data set, or a `Source` of `images`. TypeError for what has no samples."""
    indexed = hasattr(dataset, "__getitem__") or (images and _images(dataset))
    if not (hasattr(dataset, "__len__") and indexed):
        raise TypeError(
            f"{what}: expected a data set with __len__ and __getitem__, got "
            f"{type(dataset).__name__}"
        )
    return dataset


def _images(dataset: Any) -> bool:
    return all(hasattr(dataset, name) for name in OF_SOURCE)


def read_batch(dataset: Any, ids: Ids, collate_fn: Callable[[list[Any]], Any] | None) -> Any:
    """Return the samples `ids` (n,) as a batch. Of a `Source` they are normalised images and
    labels. DataError, which names the sample, for one that there is not, that fails, or that does
    not fit the others."""
    if type(dataset) is Subset:
        return read_batch(dataset.source, dataset.indices[_present(dataset, ids)], collate_fn)
    if not hasattr(dataset, "__getitem__"):
        return _of_images(dataset, _present(dataset, ids), collate_fn)
    if collate_fn is None and type(dataset) is TensorDataset and not dataset.requires_grad:
        return [from_numpy(x.numpy()[_present(dataset, ids)]) for x in dataset.tensors]
    samples = [_sample(dataset, i) for i in ids.tolist()]
    return collate_fn(samples) if collate_fn else collate(samples, ids.tolist())


def _present(dataset: Sized, ids: Ids) -> Ids:
    """Return numbers of samples; DataError for one that a data set lacks."""
    count = len(dataset)
    wrong = ids[(ids < -count) | (ids >= count)]
    if len(wrong):
        raise DataError(
            f"DataLoader: expected indices of the {count} samples of {type(dataset).__name__}, got "
            f"{wrong[0]}"
        )
    return ids


def _of_images(source: Source, ids: Ids, collate_fn: Callable[[list[Any]], Any] | None) -> Any:
    images = Normalise(source, np.float32)(source.read(ids)).transpose(0, 3, 1, 2)
    labels = source.labels[ids]
    if collate_fn:
        return collate_fn([*zip(map(from_numpy, images), labels.tolist(), strict=True)])
    return [from_numpy(images), from_numpy(labels)]


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"DataLoader: {type(dataset).__name__}[{index}]: {said}") from error
