"""IDX files, plain or gzip: two zero bytes, a type byte, a rank byte, big-endian sizes, data.

The format is described at the end of http://yann.lecun.com/exdb/mnist/. Headers are not trusted:
shape and type are compared with what the caller expects, and the size with that of the file, before
any memory is allocated.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..source import DataError
from .packed import Unpacked, unpacking

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_RANK = 8
# Raises DataError if a file may not have this element type and shape.
Check: TypeAlias = Callable[[np.dtype[Any], tuple[int, ...]], None]


def _any(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Accept every type and shape."""


def read_idx(path: Path, check: Check = _any) -> NDArray[Any]:
    """Read an IDX file (gzip if its name ends in .gz) into an array of native byte order.

    `check` is called with the element type and shape of the header, and raises DataError for those
    it does not accept. Raises DataError also for a file that is empty, truncated, damaged, of
    another format, or longer than its header says, and for a size of zero. A bad header fails
    before any allocation.
    """
    try:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path}: expected an IDX header, got an empty file (0 bytes)")
        if path.suffix == ".gz":
            with unpacking(path, "gzip data") as packed:
                return _read_packed(path, packed, stored, check)
        with path.open("rb") as stream:
            return _read_plain(path, stream, stored, check)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def write_idx(path: Path, array: NDArray[Any]) -> None:
    """Write an array of 1 to 8 dimensions as a plain IDX file.

    Raises DataError for element types that IDX does not have, such as int64.
    """
    kind = array.dtype.newbyteorder(">")
    codes = {np.dtype(name): code for code, name in TYPES.items()}
    if kind not in codes or not 1 <= array.ndim <= MAX_RANK:
        types = ", ".join(str(code.newbyteorder("=")) for code in codes)
        raise DataError(
            f"{path}: expected 1 to {MAX_RANK} dimensions of {types}, "
            f"got {array.ndim} of {array.dtype}"
        )
    header = struct.pack(f">HBB{array.ndim}I", 0, codes[kind], array.ndim, *array.shape)
    path.write_bytes(header + array.astype(kind).tobytes())


def _read_plain(path: Path, stream: BinaryIO, stored: int, check: Check) -> NDArray[Any]:
    """Read the rest of a plain file, whose size must match its header to the byte."""
    shape, kind, header = _read_header(path, stream)
    check(kind.newbyteorder("="), shape)
    claimed = header + math.prod(shape) * kind.itemsize
    if claimed != os.fstat(stream.fileno()).st_size:
        raise _mismatch(path, shape, claimed, f"{stored} bytes")
    data = stream.read(claimed - header)
    if len(data) != claimed - header:
        raise _mismatch(path, shape, claimed, f"{header + len(data)} bytes")
    return _native(np.frombuffer(data, kind).reshape(shape))


def _read_packed(path: Path, packed: Unpacked, stored: int, check: Check) -> NDArray[Any]:
    """Read the rest of a gzip file, unpacking at most one byte more than its header says."""
    shape, kind, header = _read_header(path, packed)
    check(kind.newbyteorder("="), shape)
    size = math.prod(shape) * kind.itemsize
    if size > packed.left:
        actual = f"{stored} gzip bytes, which may hold {packed.limit}; if that is right, gunzip it"
        raise _mismatch(path, shape, header + size, actual)
    data = np.empty(size, np.uint8)
    received = packed.fill(data.data)
    # Read past the end even of complete data: only then does gzip verify its checksum.
    if received < size or packed.read(1):
        actual = "more" if received == size else f"{header + received}"
        raise _mismatch(path, shape, header + size, f"{actual} bytes of gzip data")
    return _native(data.view(kind).reshape(shape))


def _read_header(
    path: Path, stream: BinaryIO | Unpacked
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, element type and the header's length in bytes."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: expected a header of 4 bytes, got {len(magic)}: truncated")
    zero, code, rank = struct.unpack(">HBB", magic)
    if zero or code not in TYPES or not 1 <= rank <= MAX_RANK:
        raise DataError(
            f"{path}: wrong magic number: expected one of IDX, such as 0x00000803 or 0x00000801, "
            f"got 0x{magic.hex()}"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(
            f"{path}: expected a header of {4 + 4 * rank} bytes, got {4 + len(sizes)}: truncated"
        )
    shape = struct.unpack(f">{rank}I", sizes)
    if 0 in shape:
        raise DataError(f"{path}: expected sizes of at least 1 in the header, got {_times(shape)}")
    return shape, np.dtype(TYPES[code]), 4 + 4 * rank


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _mismatch(path: Path, shape: tuple[int, ...], claimed: int, actual: str) -> DataError:
    header = f"{_times(shape)} ({claimed} bytes)"
    return DataError(f"{path}: expected {header} as its header says, got {actual}")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
