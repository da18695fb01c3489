"""Which samples a rank sees in a step: one permutation an epoch, cut by step, then by rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import DataError, Ids

SEEDS = 1 << 64
# Streams of random numbers that one seed feeds; the upper half of a Philox key's second word.
ORDER, DRAWING = 1, 2


def philox(seed: int, stream: int, index: int) -> np.random.Philox:
    """Return the generator of one (seed, stream, index); `random_raw` of it never changes."""
    if not 0 <= seed < SEEDS:
        raise DataError(f"--seed {seed}: must be in 0..{SEEDS - 1}")
    return np.random.Philox(key=np.array([seed, stream << 32 | index], np.uint64))


def permutation(count: int, seed: int, epoch: int) -> Ids:
    """Return the order of `count` samples in an epoch.

    Sorts raw 64-bit Philox words, so it is the same with every version of NumPy, which
    `Generator.permutation` does not promise.
    """
    words = philox(seed, ORDER, epoch).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def share(count: int, rank: int, size: int) -> tuple[int, int]:
    """Return (start, stop) of a rank's part of `count`, as `np.array_split` cuts it.

    The first `count % size` ranks get one more than the others; parts may be empty.
    """
    base, extra = divmod(count, size)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)


@dataclass(frozen=True)
class Sampler:
    """Shares out the samples of a data set: step s of an epoch is `order[s*B:(s+1)*B]`.

    Within a step, rank r takes a contiguous part (see `share`), so the parts of all ranks in rank
    order are the batch of a single rank. The last step may be smaller, and then parts may be empty.
    """

    name: str
    count: int
    batch_size: int
    rank: int = 0
    size: int = 1
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise DataError(f"rank {self.rank}: must be in 0..{self.size - 1} ({self.size} ranks)")
        has = f"the data set {self.name} has {self.count} samples"
        if self.size > self.count:
            raise DataError(f"{self.size} ranks: {has}, fewer than ranks")
        if not 0 < self.batch_size <= self.count:
            raise DataError(f"--batch-size {self.batch_size}: {has}")
        if self.batch_size < self.size:
            raise DataError(f"--batch-size {self.batch_size}: fewer than the {self.size} ranks")
        philox(self.seed, ORDER, 0)

    @property
    def steps(self) -> int:
        """Steps per epoch, counting a smaller last one."""
        return -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Ids:
        """Return the samples of an epoch in order: natural without `shuffle`."""
        if not self.shuffle:
            return np.arange(self.count)
        return permutation(self.count, self.seed, epoch)

    def part(self, order: Ids, step: int) -> tuple[Ids, int]:
        """Return this rank's samples of a step, and how many all ranks have together."""
        whole = order[step * self.batch_size : (step + 1) * self.batch_size]
        start, stop = share(len(whole), self.rank, self.size)
        return whole[start:stop], len(whole)
