"""Batches of a data set for one rank, prefetched in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import chain, count, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .augment import Augment, fold, sample_keys
from .sampler import Sampler
from .source import OF_SOURCE, DataError, Ids, Pixels, Source, readers

X = TypeVar("X")
Y = TypeVar("Y")


class Batch(NamedTuple):
    """One rank's share of a step: n samples; n may be 0 in a smaller last step.

    `images` (n, C, H, W) are normalised floats in channels-last memory. `labels` and `indices`
    (sample numbers in the data set) are int64 (n,). `total` is the number of samples of all ranks.
    `borders` are the offsets at which the micro-batches begin, followed by n.
    """

    images: NDArray[Any]
    labels: Ids
    indices: Ids
    total: int
    borders: tuple[int, ...]

    @property
    def values(self) -> Batch:
        """What a loop over micro-batches gets: this."""
        return self

    def parts(self) -> list[Batch]:
        """Return the micro-batches, as views of this batch."""
        return [
            Batch(self.images[a:b], self.labels[a:b], self.indices[a:b], self.total, (0, b - a))
            for a, b in pairwise(self.borders)
        ]


def read_ahead(
    make: Callable[[X], Y], steps: Iterable[X], prefetch: int, threads: int = 1
) -> Iterator[Y]:
    """Yield `make(step)`, up to `prefetch` of them computed ahead in threads, which end with the
    iterator; their exceptions are raised here."""
    pending: deque[Future[Y]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tallygrad-loader")
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > prefetch + threads - 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Normalise:
    """Turn images (n, H, W, C) into floats per channel: `(x - mean) / std`, where x are bytes
    divided by 255, or floats as they are."""

    def __init__(self, dataset: Source, dtype: DTypeLike) -> None:
        """Repeat mean and std along a row of pixels: NumPy is faster on long rows."""
        mean, std = np.array(dataset.mean), np.array(dataset.std)
        width = dataset.input_shape[2]
        self.scale = np.tile(1 / (255 * std), width).astype(dtype)
        self.float_scale = np.tile(1 / std, width).astype(dtype)
        self.shift = np.tile(-mean / std, width).astype(dtype)

    def __call__(self, images: Pixels) -> NDArray[Any]:
        """Return a new float array of the same shape."""
        scale = self.scale if images.dtype == np.uint8 else self.float_scale
        rows = images.reshape(*images.shape[:2], len(scale))
        result: NDArray[Any] = np.multiply(rows, scale, dtype=scale.dtype)
        result += self.shift
        return result.reshape(images.shape)


class Loader:
    """This rank's share of batches of global size `batch_size`, split into micro-batches.

    Each sample occurs exactly once per epoch, on any number of ranks (see `Sampler`); `drop_last`
    omits a smaller last batch. The order depends on seed and epoch only; without `shuffle` it is
    that of the data set. The augmentations in `augment` are applied to normalised images in
    sequence, keyed by seed, epoch and sample.

    Each iteration over the loader returns the batches of the next epoch, starting with epoch 0;
    `epoch(n)` returns those of any epoch. A thread prepares up to `prefetch` batches in advance and
    ends with the iterator; with 0, the caller prepares them itself. Of a source that is read by
    several threads (its `readers`), each prepares a batch. `around()` is a context in
    which each batch is prepared, to measure it. Raises DataError for options that do not fit the
    data set.
    """

    def __init__(
        self,
        dataset: Source,
        batch_size: int,
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        micro_batches: int = 0,
        augment: Sequence[Augment] = (),
        dtype: DTypeLike = np.float32,
        prefetch: int = 2,
        drop_last: bool = False,
    ) -> None:
        absent = next((one for one in OF_SOURCE if not hasattr(dataset, one)), None)
        if absent is not None:
            raise DataError(
                f"Loader: expected an object with {absent}, got {type(dataset).__name__}; "
                "DataLoader takes any with __len__ and __getitem__"
            )
        name = f"{dataset.name}/{dataset.split}"
        if prefetch < 0:
            raise DataError(f"prefetch: expected at least 0, got {prefetch}")
        self.dataset = dataset
        self.sampler = Sampler(
            name, len(dataset), batch_size, rank, size, seed, shuffle, micro_batches, drop_last
        )
        self.augment = tuple(augment)
        self.prefetch = prefetch
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        self._epochs = count()
        self.normalise = Normalise(dataset, dtype)

    def of_rank(self, rank: int) -> Loader:
        """Return a loader of another rank's share of the same batches."""
        other = copy(self)
        other.sampler = replace(self.sampler, rank=rank)
        return other

    def batch(self, epoch: int, step: int, order: Ids | None = None) -> Batch:
        """Return one batch of an epoch, whose order of samples takes a while to make, unless it is
        given."""
        return self._batch(epoch, self.sampler.order(epoch) if order is None else order, step)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, including a smaller last one unless it is dropped."""
        return self.sampler.steps

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(next(self._epochs))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from step `start` on, identical to those of a full pass.

        To stop early, drop the iterator: its thread ends with it. Raises DataError immediately,
        not at the first batch, if `start` is outside of the epoch.
        """
        if not 0 <= start <= self.steps_per_epoch:
            raise DataError(f"start: expected a step in 0 to {self.steps_per_epoch}, got {start}")
        make = partial(self._batch, epoch, self.sampler.order(epoch))
        steps = range(start, self.steps_per_epoch)
        if not self.prefetch:
            return map(make, steps)
        return read_ahead(make, steps, self.prefetch, readers(self.dataset))

    def micro_batches(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Return the micro-batches of each step of an epoch from a step on."""
        return (batch.parts() for batch in self.epoch(epoch, start))

    def endless(self) -> Iterator[Batch]:
        """Yield the batches of one epoch after the other, from epoch 0 on."""
        return chain.from_iterable(map(self.epoch, count()))

    def _batch(self, epoch: int, order: Ids, step: int) -> Batch:
        with self.around():
            return self._prepare(epoch, order, step)

    def _prepare(self, epoch: int, order: Ids, step: int) -> Batch:
        indices, borders, total = self.sampler.part(order, step)
        images = self.normalise(self.dataset.read(indices))
        if self.augment:
            keys = sample_keys(self.sampler.seed, epoch, indices)
            for position, augmentation in enumerate(self.augment):
                own = fold(keys, position)
                if getattr(augmentation, "alternates", False):
                    lasting = sample_keys(self.sampler.seed, 0, indices)
                    own = fold(lasting, position) ^ np.uint64(epoch & 1)
                images = augmentation(images, own)
        labels = self.dataset.labels[indices]
        return Batch(images.transpose(0, 3, 1, 2), labels, indices, total, borders)
