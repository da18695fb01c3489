"""The running statistics of a rank's micro-batches as one array: to seal them, and to compute what
another rank does with its own."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....autograd.array import Array
from ..buffers import MicroBatchBuffers
from ..comm import Comm
from .digests import Digests, digests


class Statistics:
    """A region of the state, see `sealed`: the bytes of each micro-batch, `row` of them, one after
    the other."""

    def __init__(self, buffers: MicroBatchBuffers) -> None:
        self.buffers = buffers
        sizes = [copy.spec.nbytes for copy in buffers.copies[0]]
        *self._starts, self.row = accumulate(sizes, initial=0)
        self.offsets = self._offsets(len(buffers.copies))
        self.names = buffers.names * len(buffers.copies)

    def read(self) -> NDArray[Any]:
        """Return a copy of the numbers."""
        arrays = [_bytes(copy) for copies in self.buffers.copies for copy in copies]
        return np.concatenate([np.zeros(0, np.uint8), *arrays])

    def write(self, values: NDArray[Any]) -> None:
        """Replace the numbers."""
        rows = values.reshape(len(self.buffers.copies), self.row)
        for index, row in enumerate(rows):
            self.write_row(index, row)

    def read_row(self, index: int) -> NDArray[Any]:
        """Return a copy of what a micro-batch has."""
        arrays = [_bytes(copy) for copy in self.buffers.copies[index]]
        return np.concatenate([np.zeros(0, np.uint8), *arrays])

    def write_row(self, index: int, row: NDArray[Any]) -> None:
        """Replace what a micro-batch has."""
        start = 0
        for copy in self.buffers.copies[index]:
            end = start + copy.spec.nbytes
            copy.write(row[start:end].view(copy.spec.dtype).reshape(copy.spec.shape))
            start = end

    def digests(self, values: NDArray[Any], parts: int) -> Digests:
        """Return a digest of each buffer over the first `parts` micro-batches."""
        mine, names = values[: parts * self.row], self.buffers.names
        found = digests(mine, self._offsets(parts)).reshape(parts, len(names))
        sums: Digests = found.sum(axis=0, dtype=np.uint64)
        return sums

    def _offsets(self, parts: int) -> list[int]:
        return [i * self.row + start for i in range(parts) for start in self._starts]


class Guest:
    """The statistics of the next rank's `parts` micro-batches, while this rank computes with them.
    They lie where its own do, for captured steps to stay valid; its own must be written back."""

    def __init__(
        self, statistics: Statistics, comm: Comm, sealed: NDArray[Any], parts: int
    ) -> None:
        """Receive the next rank's statistics, and send this one's, which were `sealed`."""
        self._statistics, self._part = statistics, -1
        self._rows = np.zeros((parts, statistics.row), np.uint8)
        own = len(statistics.buffers.mine) * statistics.row
        before, after = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
        comm.sendrecv(np.ascontiguousarray(sealed[:own]), self._rows, before, after)

    def use(self, part: int) -> None:
        """Let the model read and write those of a micro-batch."""
        self._take()
        self._part = part
        place = part % len(self._statistics.buffers.copies)
        self._statistics.write_row(place, self._rows[part])
        self._statistics.buffers.use(place)

    def end(self) -> NDArray[Any]:
        """Return what they are after the last micro-batch, (n,)."""
        self._take()
        return self._rows.reshape(-1)

    def _take(self) -> None:
        if self._part >= 0:
            place = self._part % len(self._statistics.buffers.copies)
            self._rows[self._part] = self._statistics.read_row(place)


def _bytes(copy: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(copy.value).reshape(-1).view(np.uint8)
