"""Which samples a rank sees in a step: one permutation an epoch, cut by step, then into parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .source import DataError, Ids

SEEDS = 1 << 64
# Streams of random numbers that one seed feeds; the upper half of a Philox key's second word.
ORDER, DRAWING, HOLDING_OUT = 1, 2, 3


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


def owned(parts: int, rank: int, size: int) -> tuple[int, int]:
    """Return (start, stop) of the parts that are a rank's, for at least as many parts as ranks.

    Parts and ranks are halved together, the first half getting the odd one, until one rank is left.
    So a rank's parts are a whole branch of the binary tree that halving makes of all parts, and
    sums along that tree can be formed within ranks first, whatever their number.
    """
    start, stop = 0, parts
    while size > 1:
        first, middle = (size + 1) // 2, start + (stop - start + 1) // 2
        if rank < first:
            stop, size = middle, first
        else:
            start, rank, size = middle, rank - first, size - first
    return start, stop


@dataclass(frozen=True)
class Sampler:
    """Shares out the samples of a data set: step s of an epoch is `order[s*B:(s+1)*B]`.

    A step is cut into `parts` contiguous micro-batches (see `share`), of which a rank takes
    neighbours (see `owned`), so all ranks' samples in rank order are the batch of a single rank.
    There are `micro_batches`, but at most one a sample and at least one a rank. The last step may
    be smaller, and then parts may be empty.
    """

    name: str
    count: int
    batch_size: int
    rank: int = 0
    size: int = 1
    seed: int = 0
    shuffle: bool = True
    micro_batches: int = 1

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
        if self.micro_batches < 1:
            raise DataError(f"--micro-batches {self.micro_batches}: must be at least 1")
        philox(self.seed, ORDER, 0)

    @property
    def parts(self) -> int:
        """Micro-batches in a step of all ranks."""
        return max(min(self.micro_batches, self.batch_size), self.size)

    @property
    def mine(self) -> range:
        """This rank's micro-batches among them; at least one."""
        return range(*owned(self.parts, self.rank, self.size))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the micro-batches of a whole step, over all ranks, each once."""
        cut = [share(self.batch_size, part, self.parts) for part in range(self.parts)]
        return (*dict.fromkeys(stop - start for start, stop in cut),)

    @property
    def steps(self) -> int:
        """Steps per epoch, counting a smaller last one."""
        return -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Ids:
        """Return the samples of an epoch in order: natural without `shuffle`."""
        if not self.shuffle:
            return np.arange(self.count)
        return permutation(self.count, self.seed, epoch)

    def part(self, order: Ids, step: int) -> tuple[Ids, tuple[int, ...], int]:
        """Return this rank's samples of a step, the borders of its micro-batches among them, from
        0 to their number, and how many samples all ranks have together."""
        whole = order[step * self.batch_size : (step + 1) * self.batch_size]
        start = share(len(whole), self.mine[0], self.parts)[0]
        borders = (start, *(share(len(whole), part, self.parts)[1] for part in self.mine))
        return whole[start : borders[-1]], tuple(b - start for b in borders), len(whole)
