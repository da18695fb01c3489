"""Batches of a data set of your own: any object with `__len__` and `__getitem__`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Self

from ..autograd import Generator, initial_seed
from ..autograd.random import keyed
from .drawing import as_draws
from .indices import IndexLoader
from .loader import read_ahead
from .samples import Sized, check_samples, read_batch
from .source import DataError, Ids, is_whole, readers

READING = 1 << 63  # in a seed: what data sets draw, unlike what models draw
PREFETCH = 2  # micro-batches of a worker, torch's number


class Samples(NamedTuple):
    """A micro-batch: the numbers (n,) of its samples, what reads them, and how many the ranks have
    together in this step."""

    indices: Ids
    total: int
    read: Callable[[], Any]

    @property
    def values(self) -> Any:
        """What a loop gets, read now."""
        return self.read()

    def filled(self) -> Self:
        """Return the same with what is read."""
        if not len(self.indices):
            return self
        values = self.values
        return self._replace(read=lambda: values)


class DataLoader(IndexLoader):
    """Batches of any object with `__len__` and `__getitem__`, with torch's arguments.

    A batch is what `collate_fn` makes of a list of samples, by default as `default_collate` does:
    for `(x, y)` a list of two tensors. Of images that `load` returned, it is normalised images and
    labels. Each iteration is the next epoch. The order of an epoch follows from it and from the
    seed of the `generator`, by default that of the last `manual_seed`; a `sampler` replaces it.
    So does what `__getitem__` draws with functions of this package.

    With `num_workers`, a thread reads ahead, or several of a data set whose attribute `readers`
    says so. Accepted without effect: `pin_memory`, `timeout`, `worker_init_fn`,
    `multiprocessing_context`, `persistent_workers`, `pin_memory_device`, `in_order`. DataError for
    values that do not fit, TypeError for what is no data set."""

    def __init__(
        self,
        dataset: Sized,
        batch_size: int = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        check_samples("DataLoader", dataset, images=True)
        if sampler is not None and shuffle:
            raise DataError("DataLoader: expected shuffle=True or a sampler, got both")
        draws = as_draws(sampler)
        count = len(dataset) if draws is None else len(draws)
        ahead = PREFETCH if prefetch_factor is None else prefetch_factor
        _check(count, batch_sampler, drop_last, batch_size, num_workers, ahead)
        seed = initial_seed() if generator is None else generator.initial_seed()
        super().__init__(
            count, min(batch_size, count), seed=seed, shuffle=bool(shuffle), drop_last=drop_last
        )
        self.sampler = replace(self.sampler, draws=draws)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.collate_fn, self.num_workers = collate_fn, num_workers
        self.prefetch = num_workers * ahead

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Return the batches of an epoch from a step on."""
        parts = chain.from_iterable(self.micro_batches(epoch, start))
        return (part.values for part in parts)

    def micro_batches(self, epoch: int, start: int = 0) -> Iterator[list[Samples]]:
        """Return the micro-batches of each step of an epoch from a step on. Each is read when its
        values are asked for, or ahead by workers."""
        steps = (
            [Samples(p.indices, p.total, partial(self._read, epoch, p.indices)) for p in parts]
            for parts in super().micro_batches(epoch, start)
        )
        if not self.num_workers:
            return steps
        threads = min(self.num_workers, readers(self.dataset))
        return read_ahead(_filled, steps, self.prefetch, threads)

    def _read(self, epoch: int, ids: Ids) -> Any:
        with keyed(ids, self.sampler.seed ^ READING, epoch):
            return read_batch(self.dataset, ids, self.collate_fn)


def _filled(parts: list[Samples]) -> list[Samples]:
    return [part.filled() for part in parts]


def _check(
    count: int,
    batch_sampler: object,
    drop_last: bool,
    batch_size: int,
    num_workers: int,
    prefetch_factor: int,
) -> None:
    """DataError for values that do not fit."""
    if batch_sampler is not None:
        raise DataError(
            f"DataLoader: batch_sampler: expected None, got {type(batch_sampler).__name__}; give "
            "batch_size and sampler"
        )
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("prefetch_factor", prefetch_factor, 0),
    ):
        if not is_whole(value) or value < least:
            raise DataError(
                f"DataLoader: {name}: expected a whole number of at least {least}, got {value!r}"
            )
    if count < (batch_size if drop_last else 1):
        few = f"{batch_size} samples with drop_last" if drop_last else "one sample"
        raise DataError(f"DataLoader: expected at least {few}, got {count}")
