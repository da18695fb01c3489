"""Read rows of an array straight from a file, past the HDF5 library and its lock.

Rows lie one after the other, or in chunks of several, compressed or not. Reading releases Python's
lock, so that threads read and decompress at the same time.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeAlias
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ..source import DataError, Ids

CACHE = 128 << 20  # bytes of decoded chunks that are kept of an array
Rows: TypeAlias = NDArray[Any]
GZIP, SHUFFLE = 1, 2  # numbers of HDF5's filters


class Reader(Protocol):
    """What fills an array with rows."""

    def fill(self, rows: Rows, indices: Ids) -> None:
        """Read the rows `indices` (n,) into `rows` (n, ...)."""


class File:
    """A file that threads read at any place; it is closed with its last user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self.descriptor)

    def read_into(self, buffer: memoryview, offset: int, what: str) -> None:
        """Fill a buffer. DataError where the file ends before."""
        done = 0
        while done < len(buffer):
            more = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if not more:
                raise DataError(f"{self.path}: {what}: expected {len(buffer)} bytes at {offset}, "
                                f"got {done}: truncated")  # fmt: skip
            done += more


@dataclass(frozen=True)
class Contiguous:
    """Rows of `width` bytes, one after the other from `offset` on."""

    file: File
    offset: int
    width: int

    def fill(self, rows: Rows, indices: Ids) -> None:
        """Read rows in the order of the file, adjacent ones at once."""
        order = np.argsort(indices, kind="stable")
        target = rows if (order[1:] > order[:-1]).all() else np.empty_like(rows)
        buffer, width = target.reshape(-1).view(np.uint8).data, self.width
        wanted = indices[order]
        starts = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        for start, stop in pairwise(starts):
            if stop > start:
                first = int(wanted[start])
                part = buffer[start * width : stop * width]
                self.file.read_into(part, self.offset + first * width, f"image {first}")
        if target is not rows:
            rows[order] = target


class Chunked:
    """Rows in chunks of `length`, which `decode(number)` returns; the latest are kept."""

    def __init__(self, length: int, decode: Callable[[int], Rows]) -> None:
        self.length, self.decode = length, decode
        self._latest: OrderedDict[int, Rows] = OrderedDict()
        self._size, self._lock = 0, Lock()

    def fill(self, rows: Rows, indices: Ids) -> None:
        """Decode each chunk once, in the order of the file."""
        numbers = indices // self.length
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        for members in np.split(order, starts[1:]):
            if len(members):
                number = int(numbers[members[0]])
                rows[members] = self._chunk(number)[indices[members] - number * self.length]

    def _chunk(self, number: int) -> Rows:
        with self._lock:
            if number in self._latest:
                self._latest.move_to_end(number)
                return self._latest[number]
        chunk = self.decode(number)
        if self.length > 1:  # else the next reader is an epoch away
            self._keep(number, chunk)
        return chunk

    def _keep(self, number: int, chunk: Rows) -> None:
        with self._lock:
            if number not in self._latest:
                self._latest[number] = chunk
                self._size += chunk.nbytes
            while self._size > CACHE and self._latest:
                self._size -= self._latest.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class ChunkDecoder:
    """Decodes chunks of a shape and type, which lie at `offsets` with `sizes` bytes; a size of 0
    means that a chunk was never written. `filters` are applied in writing, in this order."""

    file: File
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    filters: tuple[int, ...]

    def __call__(self, number: int) -> Rows:
        """Return a chunk. DataError where it is missing or damaged."""
        what, size = f"chunk {number}", int(self.sizes[number])
        expected = int(np.prod(self.shape)) * self.dtype.itemsize
        if not 0 < size <= 2 * expected + 1024:
            raise DataError(
                f"{self.file.path}: {what}: expected up to {expected} bytes, got {size}"
            )
        data: Any = bytearray(size)
        self.file.read_into(memoryview(data), int(self.offsets[number]), what)
        for code in reversed(self.filters):
            data = self._inflate(data, what, expected) if code == GZIP else self._unshuffle(data)
        if len(data) != expected:
            raise DataError(f"{self.file.path}: {what}: expected {expected} bytes, got {len(data)}")
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def _inflate(self, data: bytearray, what: str, expected: int) -> bytes:
        try:
            return zlib.decompressobj().decompress(data, expected + 1)
        except zlib.error as error:
            raise DataError(f"{self.file.path}: {what}: damaged ({error})") from error

    def _unshuffle(self, data: bytes) -> bytes:
        width = self.dtype.itemsize
        whole = np.frombuffer(data, np.uint8)
        if len(whole) % width:
            return data
        return whole.reshape(width, -1).T.tobytes()
