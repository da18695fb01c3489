"""Samplers that draw, by torch's names. What they draw follows from a seed and the epoch alone, so
that all ranks know it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..autograd import Generator, Tensor, initial_seed
from .sampler import SAMPLING, philox
from .source import DataError, Ids, is_whole, whole_numbers


class Draws:
    """Base of samplers: `order(seed, epoch)` returns the numbers of an epoch's samples. The seed of
    a `generator` counts instead of that of the loader."""

    def __init__(self, generator: Generator | None) -> None:
        self.seed = None if generator is None else generator.initial_seed()
        self._epochs = count()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(initial_seed(), next(self._epochs)).tolist())

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self, seed: int, epoch: int) -> Ids:
        """Return sample numbers, int64 (len(self),)."""
        raise NotImplementedError

    def words(self, seed: int, epoch: int, size: int) -> NDArray[np.uint64]:
        """Return so many random words."""
        own = seed if self.seed is None else self.seed
        words: NDArray[np.uint64] = philox(own, SAMPLING, epoch).random_raw(size)
        return words


class WeightedRandomSampler(Draws):
    """Draws sample i with a probability in proportion to `weights[i]`, `num_samples` in an epoch,
    each at most once without `replacement`. DataError for weights or numbers that do not fit."""

    def __init__(
        self,
        weights: Sequence[float] | NDArray[Any] | Tensor,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(generator)
        given = weights.numpy() if isinstance(weights, Tensor) else weights
        self.weights = np.asarray(given, np.float64)
        self.num_samples, self.replacement = num_samples, replacement
        drawn = np.flatnonzero(self.weights)
        with np.errstate(over="ignore"):
            fits = self.weights.ndim == 1 and np.isfinite(self.weights.sum()) and len(drawn)
        if not fits or self.weights.min() < 0:
            raise DataError(
                "WeightedRandomSampler: expected weights (n,) of at least 0 with a finite sum, and "
                f"one above 0, got shape {self.weights.shape} from {_bounds(self.weights)}"
            )
        most = "" if replacement else f" to {len(drawn)} without replacement"
        fits = is_whole(num_samples) and num_samples > 0
        if not fits or not (replacement or num_samples <= len(drawn)):
            raise DataError(
                f"WeightedRandomSampler: expected num_samples from 1{most}, got {num_samples}"
            )

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.weights.tobytes()).hexdigest()[:16]
        return (
            f"WeightedRandomSampler({self.num_samples} of {len(self.weights)}, "
            f"replacement={self.replacement}, seed={self.seed}, weights {digest})"
        )

    def order(self, seed: int, epoch: int) -> Ids:
        """Return the samples that are drawn; without replacement by the keys of Efraimidis and
        Spirakis, "Weighted random sampling with a reservoir" (2006)."""
        size = self.num_samples if self.replacement else len(self.weights)
        uniform = (self.words(seed, epoch, size) >> np.uint64(11)) * 2.0**-53
        if not self.replacement:
            with np.errstate(divide="ignore", invalid="ignore"):
                keys = np.log(-np.log1p(-uniform)) - np.log(self.weights)
                keys[self.weights == 0] = np.inf
            order: Ids = np.argsort(keys, kind="stable")[: self.num_samples]
            return order
        sums = np.cumsum(self.weights)
        drawn: Ids = np.searchsorted(sums, uniform * sums[-1], side="right")
        return drawn


def _bounds(weights: NDArray[np.float64]) -> str:
    return f"{weights.min()} to {weights.max()}" if weights.size else "none"


class SubsetRandomSampler(Draws):
    """Yields the samples of these numbers, in an order of its own in each epoch."""

    def __init__(self, indices: Sequence[int] | Ids, generator: Generator | None = None) -> None:
        super().__init__(generator)
        self.indices = whole_numbers("SubsetRandomSampler", indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.indices.tobytes()).hexdigest()[:16]
        return f"SubsetRandomSampler({len(self)}, seed={self.seed}, indices {digest})"

    def order(self, seed: int, epoch: int) -> Ids:
        """Return the numbers, shuffled."""
        order: Ids = np.argsort(self.words(seed, epoch, len(self)), kind="stable")
        shuffled: Ids = self.indices[order]
        return shuffled


class Listed(Draws):
    """What a sampler of the user's yields when it is asked for, whatever seed and epoch are: no
    other rank knows it."""

    def __init__(self, sampler: Iterable[int]) -> None:
        super().__init__(None)
        self.sampler = sampler

    def __len__(self) -> int:
        size: int = len(self.sampler)  # type: ignore[arg-type]
        return size

    def __repr__(self) -> str:
        return type(self.sampler).__name__

    def order(self, seed: int, epoch: int) -> Ids:
        """Return the numbers. DataError where they are not as many as its length says."""
        order = whole_numbers(f"sampler {self}", [*self.sampler])
        if len(order) != len(self):
            raise DataError(
                f"sampler: expected {len(self)} numbers, its length, of {self}, got {len(order)}"
            )
        return order


def as_draws(sampler: Iterable[int] | None) -> Draws | None:
    """Return a sampler as one whose order can be asked for. DataError for one without length."""
    if sampler is None or isinstance(sampler, Draws):
        return sampler
    if not hasattr(sampler, "__len__"):
        raise DataError(f"sampler: expected one with __len__, got {type(sampler).__name__}")
    return Listed(sampler)
