"""What a rank holds between two steps, kept twice: a flipped bit is seen and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ....autograd.array import Array
from .corruption import Corrupted
from .digests import Digests, digests, same_bits


class Region(Protocol):
    """A part of the state: named pieces, which begin at `offsets`, of a flat array."""

    @property
    def names(self) -> Sequence[str]:
        """What the pieces are."""

    @property
    def offsets(self) -> Sequence[int]:
        """Where they begin."""

    def read(self) -> NDArray[Any]:
        """Return the numbers, (n,); a copy, or the memory itself."""

    def write(self, values: NDArray[Any]) -> None:
        """Replace the numbers."""


@dataclass(frozen=True)
class FlatRegion:
    """An array whose pieces are those of parameters."""

    array: Array
    offsets: Sequence[int]
    names: Sequence[str]

    def read(self) -> NDArray[Any]:
        """Return the memory."""
        return self.array.value

    def write(self, values: NDArray[Any]) -> None:
        """Replace the numbers."""
        self.array.write(values)


@dataclass(frozen=True)
class JoinedRegion:
    """Several flat arrays as one piece."""

    arrays: Sequence[Array]
    names: Sequence[str]
    offsets: Sequence[int] = (0,)

    def read(self) -> NDArray[Any]:
        """Return a copy of the bytes."""
        values = [np.ascontiguousarray(a.value).reshape(-1).view(np.uint8) for a in self.arrays]
        return np.concatenate([np.zeros(0, np.uint8), *values])

    def write(self, values: NDArray[Any]) -> None:
        """Replace the numbers."""
        start = 0
        for a in self.arrays:
            end = start + a.spec.nbytes
            a.write(values[start:end].view(a.spec.dtype).reshape(a.spec.shape))
            start = end


class SealedState:
    """Regions of this rank's memory, which nobody changes from `seal` on until they are used.
    `names` are those of all their pieces."""

    def __init__(self, rank: int, regions: Sequence[Region]) -> None:
        self.rank, self.regions = rank, regions
        self.names = [name for region in regions for name in region.names]
        self.copies: list[NDArray[Any]] = []
        self._digests: list[Digests] = []

    def copy(self) -> list[NDArray[Any]]:
        """Return copies of what the memory holds now, by region."""
        return [region.read().copy() for region in self.regions]

    def digests(self, values: Sequence[NDArray[Any]] | None = None) -> Digests:
        """Return the digests, by piece, of values by region; of what the memory holds without."""
        values = [region.read() for region in self.regions] if values is None else values
        pairs = zip(values, self.regions, strict=True)
        found = [digests(value, region.offsets) for value, region in pairs]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def seal(self) -> None:
        """Seal what the memory holds."""
        copies = self.copy()
        self.keep(copies, self.digests(copies))

    def keep(self, copies: Sequence[NDArray[Any]], found: Digests) -> None:
        """Seal what the memory should hold, with its digests."""
        self.copies = [*copies]
        self._digests = np.split(found, np.cumsum([len(r.names) for r in self.regions])[:-1])

    def drop(self) -> None:
        """Forget the copy."""
        self.copies, self._digests = [], []

    @property
    def is_sealed(self) -> bool:
        """Whether there is a copy."""
        return bool(self.copies)

    def mend(self) -> int:
        """Undo changes of the memory, or of the copy; return the number of the first piece of the
        memory with one, or -1. Raises Corrupted where both have changed."""
        changed, first = -1, 0
        for region, copy, sealed in zip(self.regions, self.copies, self._digests, strict=True):
            if not same_bits(values := region.read(), copy):
                wrong = np.flatnonzero(digests(values, region.offsets) != sealed)
                if len(wrong):
                    changed = changed if changed >= 0 else first + int(wrong[0])
                    self._check(copy, region, sealed)
                    region.write(copy)
                else:
                    copy[...] = values
            first += len(sealed)
        return changed

    def restore(self) -> None:
        """Let the memory hold again what was sealed. Raises Corrupted where the copy changed."""
        for region, copy, sealed in zip(self.regions, self.copies, self._digests, strict=True):
            self._check(copy, region, sealed)
            region.write(copy)

    def holds(self, values: Sequence[NDArray[Any]]) -> bool:
        """Tell whether the memory holds these values, by region."""
        pairs = zip(self.regions, values, strict=True)
        return all(same_bits(region.read(), value) for region, value in pairs)

    def _check(self, copy: NDArray[Any], region: Region, sealed: Digests) -> None:
        wrong = np.flatnonzero(digests(copy, region.offsets) != sealed)
        if len(wrong):
            raise Corrupted(
                f"corrupted: rank {self.rank}: the copy of {region.names[wrong[0]]} changed while "
                "it was needed; go on from the last checkpoint with --resume"
            )
