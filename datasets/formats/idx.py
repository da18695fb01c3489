"""IDX files, plain or gzip: two zero bytes, a type byte, a rank byte, big-endian sizes, data.

The format is described at the end of http://yann.lecun.com/exdb/mnist/. A header is not believed:
what it claims is compared with what is wanted and with the size of the file before memory is asked
for.
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
# Raises DataError for an element type and a shape that a file may not have.
Check: TypeAlias = Callable[[np.dtype[Any], tuple[int, ...]], None]


def _any(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Take every type and shape."""


def read_idx(path: Path, check: Check = _any) -> NDArray[Any]:
    """Read an IDX file (gzip if its name ends in .gz) into an array of native byte order.

    Raises DataError for empty, truncated, longer than announced or foreign files, for a size of
    zero, for what `check` refuses and for broken gzip data; bad headers fail before any allocation.
    """
    try:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path}: empty file (0 bytes), expected an IDX header")
        if path.suffix == ".gz":
            with unpacking(path, "gzip data") as packed:
                return _read_packed(path, packed, stored, check)
        with path.open("rb") as stream:
            return _read_plain(path, stream, stored, check)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def write_idx(path: Path, array: NDArray[Any]) -> None:
    """Write an array as a plain IDX file.

    Raises DataError for element types that IDX does not have, such as int64.
    """
    kind = array.dtype.newbyteorder(">")
    codes = {np.dtype(name): code for code, name in TYPES.items()}
    if kind not in codes or not 1 <= array.ndim <= MAX_RANK:
        raise DataError(f"{path}: IDX has no {array.ndim}-dimensional arrays of {array.dtype}")
    header = struct.pack(f">HBB{array.ndim}I", 0, codes[kind], array.ndim, *array.shape)
    path.write_bytes(header + array.astype(kind).tobytes())


def _read_plain(path: Path, stream: BinaryIO, stored: int, check: Check) -> NDArray[Any]:
    """Read the rest of a plain file, whose size must be the announced one to the byte."""
    shape, kind, header = _read_header(path, stream)
    check(kind.newbyteorder("="), shape)
    claimed = header + math.prod(shape) * kind.itemsize
    if claimed != os.fstat(stream.fileno()).st_size:
        raise _mismatch(path, shape, claimed, f"the file has {stored}")
    data = stream.read(claimed - header)
    if len(data) != claimed - header:
        raise _mismatch(path, shape, claimed, f"only {header + len(data)} could be read")
    return _native(np.frombuffer(data, kind).reshape(shape))


def _read_packed(path: Path, packed: Unpacked, stored: int, check: Check) -> NDArray[Any]:
    """Read the rest of a gzip file, unpacking one byte more than announced at most."""
    shape, kind, header = _read_header(path, packed)
    check(kind.newbyteorder("="), shape)
    wanted = math.prod(shape) * kind.itemsize
    if wanted > packed.left:
        why = f"{stored} gzip bytes may hold {packed.limit}; gunzip it if it is meant to"
        raise _mismatch(path, shape, header + wanted, why)
    data = np.empty(wanted, np.uint8)
    found = packed.fill(data.data)
    if found < wanted or packed.read(1):
        told = "more" if found == wanted else str(header + found)
        raise _mismatch(path, shape, header + wanted, f"the gzip data hold {told}")
    return _native(data.view(kind).reshape(shape))


def _read_header(
    path: Path, stream: BinaryIO | Unpacked
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, element type and the header's length in bytes."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated header, {len(magic)} bytes of 4")
    zero, code, rank = struct.unpack(">HBB", magic)
    if zero or code not in TYPES or not 1 <= rank <= MAX_RANK:
        raise DataError(
            f"{path}: wrong magic number 0x{magic.hex()}, expected IDX such as 0x00000803 or "
            "0x00000801"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: truncated header, {4 + len(sizes)} bytes of {4 + 4 * rank}")
    shape = struct.unpack(f">{rank}I", sizes)
    if 0 in shape:
        raise DataError(f"{path}: the header says {_times(shape)}, which is no data")
    return shape, np.dtype(TYPES[code]), 4 + 4 * rank


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _mismatch(path: Path, shape: tuple[int, ...], claimed: int, found: str) -> DataError:
    return DataError(f"{path}: the header says {_times(shape)} ({claimed} bytes), {found}")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
