"""Which samples a rank processes in a step.

The permutation of an epoch is cut into steps, and each step into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .source import DataError, Ids

SEEDS = 1 << 64
# Independent streams of random numbers from one seed: the upper half of the second word of the
# Philox key.
ORDER, DRAWING, HOLDING_OUT, TESTING, SAMPLING = 1, 2, 3, 4, 5


def philox(seed: int, stream: int, index: int) -> np.random.Philox:
    """Return the generator of (seed, stream, index). Every NumPy gives the same `random_raw`."""
    if not 0 <= seed < SEEDS:
        raise DataError(f"--seed: expected 0 to {SEEDS - 1}, got {seed}")
    return np.random.Philox(key=np.array([seed, stream << 32 | index], np.uint64))


def permutation(count: int, seed: int, epoch: int) -> Ids:
    """Return the order of `count` samples in an epoch, int64 (count,).

    It sorts raw 64-bit Philox words, and is therefore the same in every version of NumPy, which
    `Generator.permutation` does not guarantee.
    """
    words = philox(seed, ORDER, epoch).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def share(count: int, rank: int, size: int) -> tuple[int, int]:
    """Return (start, stop) of a rank's part of `count` items, as `np.array_split` splits them.

    The first `count % size` ranks get one more than the others. Parts may be empty.
    """
    base, extra = divmod(count, size)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)


def owned(parts: int, rank: int, size: int) -> tuple[int, int]:
    """Return (start, stop) of the parts that are a rank's; with more ranks than parts, some have
    none.

    Parts and ranks are halved together, the first half taking the odd one, until one rank is left.
    A rank's parts are thus a complete branch of the binary tree that halving builds over all parts,
    so sums along this tree begin within each rank, whatever the number of ranks.
    """
    start, stop = 0, parts
    while size > 1:
        first, middle = (size + 1) // 2, start + (stop - start + 1) // 2
        if rank < first:
            stop, size = middle, first
        else:
            start, rank, size = middle, rank - first, size - first
    return start, stop


class Order(Protocol):
    """What draws the samples of an epoch. Its text tells it from others."""

    def order(self, seed: int, epoch: int) -> Ids:
        """Return sample numbers."""


@dataclass(frozen=True)
class Sampler:
    """Splits the samples of a data set between ranks: step s of an epoch is `order[s*B:(s+1)*B]`.

    A step consists of `parts` contiguous micro-batches (see `share`), and a rank processes adjacent
    ones (see `owned`): in rank order, the samples of all ranks are the batch of a single rank.
    `parts` is `micro_batches` (0: one per rank), but at most one per sample; ranks beyond that
    number process none. The last step may be smaller, its micro-batches empty; `drop_last` omits
    it. `draws` replaces the permutation. Raises DataError for options that do not fit together;
    `name` is the data set's in the message.
    """

    name: str
    count: int
    batch_size: int
    rank: int = 0
    size: int = 1
    seed: int = 0
    shuffle: bool = True
    micro_batches: int = 0
    drop_last: bool = False
    draws: Order | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise DataError(f"rank: expected 0 to {self.size - 1}, got {self.rank}")
        samples = f"the {self.count} samples of {self.name}"
        if not 0 < self.batch_size <= self.count:
            raise DataError(f"--batch-size: expected 1 to {samples}, got {self.batch_size}")
        if self.micro_batches < 0:
            raise DataError(f"--micro-batches: expected at least 0, got {self.micro_batches}")
        philox(self.seed, ORDER, 0)

    @property
    def parts(self) -> int:
        """Micro-batches per step, over all ranks."""
        return min(self.micro_batches or self.size, self.batch_size)

    @property
    def mine(self) -> range:
        """Numbers of this rank's micro-batches."""
        return range(*owned(self.parts, self.rank, self.size))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different sizes of the micro-batches of a full step, over all ranks."""
        bounds = [share(self.batch_size, part, self.parts) for part in range(self.parts)]
        return (*dict.fromkeys(stop - start for start, stop in bounds),)

    @property
    def steps(self) -> int:
        """Steps per epoch, including a smaller last one unless it is dropped."""
        return self.count // self.batch_size + (self.rest > 0)

    @property
    def rest(self) -> int:
        """Samples of a smaller last step, 0 without one."""
        return 0 if self.drop_last else self.count % self.batch_size

    def order(self, epoch: int) -> Ids:
        """Return the sample numbers of an epoch in order, int64 (count,)."""
        if self.draws is not None:
            return self.draws.order(self.seed, epoch)
        if not self.shuffle:
            return np.arange(self.count)
        return permutation(self.count, self.seed, epoch)

    def part(self, order: Ids, step: int) -> tuple[Ids, tuple[int, ...], int]:
        """Return this rank's share of a step: (samples, borders, total).

        `samples` (n,) are numbers in the data set. `borders` are the offsets of the micro-batches
        among them, from 0 to n. `total` is the number of samples of all ranks.
        """
        whole = order[step * self.batch_size : (step + 1) * self.batch_size]
        if not self.mine:
            return whole[:0], (0,), len(whole)
        start = share(len(whole), self.mine[0], self.parts)[0]
        borders = (start, *(share(len(whole), part, self.parts)[1] for part in self.mine))
        return whole[start : borders[-1]], tuple(b - start for b in borders), len(whole)
