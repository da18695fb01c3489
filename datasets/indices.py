"""Batches of sample numbers, for data that a script holds itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from .loader import Batch
from .sampler import Sampler
from .source import DataError


class IndexLoader:
    """Batches of numbers from 0 to `samples` - 1, in the order of `Loader`: `batch.indices` (n,).

    Each iteration returns the next epoch, `epoch(n)` any one; `drop_last` omits a smaller last
    batch. DataError for a batch that does not fit."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.dataset: Any = range(samples)
        self.sampler = Sampler(
            "the data", samples, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last
        )
        self._epochs = count()

    def __len__(self) -> int:
        return self.sampler.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(next(self._epochs))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from a step on; numbers stand for images and labels."""
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        if not 0 <= start <= len(self):
            raise DataError(f"start: expected a step in 0 to {len(self)}, got {start}")
        order = self.sampler.order(epoch)
        for step in range(start, len(self)):
            indices, borders, total = self.sampler.part(order, step)
            yield Batch(indices, indices, indices, total, borders)

    def micro_batches(self, epoch: int, start: int = 0) -> Iterator[list[Any]]:
        """Return the micro-batches of each step of an epoch from a step on."""
        return (batch.parts() for batch in self._batches(epoch, start))
