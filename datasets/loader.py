"""Batches of a data set for one rank, prepared ahead in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .augment import Augment, fold, sample_keys
from .sampler import Sampler
from .source import Bytes, DataError, Ids, Source


class Batch(NamedTuple):
    """One rank's part of a step; n may be 0 in a smaller last step.

    `images` (n, C, H, W) are normalised floats in channels-last memory, `labels` and `indices`
    (sample numbers in the data set) int64 (n,). `total` counts the samples of all ranks, `borders`
    has where the micro-batches begin, and n.
    """

    images: NDArray[Any]
    labels: Ids
    indices: Ids
    total: int
    borders: tuple[int, ...]

    def parts(self) -> list[Batch]:
        """Return the micro-batches, as views."""
        return [
            Batch(self.images[a:b], self.labels[a:b], self.indices[a:b], self.total, (0, b - a))
            for a, b in pairwise(self.borders)
        ]


class Normalise:
    """Turn uint8 images (n, H, W, C) into floats: `(x / 255 - mean) / std` per channel."""

    def __init__(self, dataset: Source, dtype: DTypeLike) -> None:
        """Spread mean and std over a row of pixels, which NumPy then works through at once."""
        mean, std = np.array(dataset.mean), np.array(dataset.std)
        width = dataset.input_shape[2]
        self.scale = np.tile(1 / (255 * std), width).astype(dtype)
        self.shift = np.tile(-mean / std, width).astype(dtype)

    def __call__(self, images: Bytes) -> NDArray[Any]:
        """Return a new array of the same shape."""
        rows = images.reshape(*images.shape[:2], len(self.scale))
        result: NDArray[Any] = np.multiply(rows, self.scale, dtype=self.scale.dtype)
        result += self.shift
        return result.reshape(images.shape)


class Loader:
    """Batches of global size `batch_size`, of which this rank gets its share, cut into
    micro-batches (see `Sampler`).

    Every sample comes exactly once an epoch whatever the number of ranks; the order depends on
    seed and epoch alone and is natural without `shuffle`. `augment` applies to normalised images
    in the given order, keyed by seed, epoch and sample. Iterating the loader gives the batches of
    the next epoch, the first time of epoch 0; `epoch(n)` those of any. Up to `prefetch` batches
    are prepared ahead by a thread that lives as long as the iterator; 0 prepares them in the
    caller.
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
        micro_batches: int = 1,
        augment: Sequence[Augment] = (),
        dtype: DTypeLike = np.float32,
        prefetch: int = 2,
    ) -> None:
        name = f"{dataset.name}/{dataset.split}"
        if prefetch < 0:
            raise DataError(f"prefetch {prefetch}: must be at least 0")
        self.dataset = dataset
        self.sampler = Sampler(
            name, len(dataset), batch_size, rank, size, seed, shuffle, micro_batches
        )
        self.augment = tuple(augment)
        self.prefetch = prefetch
        self._epochs = count()
        self.normalise = Normalise(dataset, dtype)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, counting a smaller last one."""
        return self.sampler.steps

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(next(self._epochs))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from step `start` on, the same as in a whole epoch.

        To stop early, drop the iterator: its thread ends with it. Raises DataError at once for a
        `start` outside of the epoch.
        """
        if not 0 <= start <= self.steps_per_epoch:
            raise DataError(f"step {start}: an epoch has {self.steps_per_epoch} steps")
        make = partial(self._batch, epoch, self.sampler.order(epoch))
        steps = range(start, self.steps_per_epoch)
        return self._ahead(make, steps) if self.prefetch else map(make, steps)

    def _ahead(self, make: partial[Batch], steps: range) -> Iterator[Batch]:
        """Yield `make(step)`, computed in a thread; an exception in it is raised here."""
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="tallygrad-loader")
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) > self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, epoch: int, order: Ids, step: int) -> Batch:
        indices, borders, total = self.sampler.part(order, step)
        images = self.normalise(self.dataset.read(indices))
        if self.augment:
            keys = sample_keys(self.sampler.seed, epoch, indices)
            for place, change in enumerate(self.augment):
                images = change(images, fold(keys, place))
        labels = self.dataset.labels[indices]
        return Batch(images.transpose(0, 3, 1, 2), labels, indices, total, borders)
