"""The state of a run as bytes that are quick to make: what a checkpoint holds, without HDF5.

A file is a CRC-32 in hex, a line of JSON with the record and each array's name, type and shape, and
the arrays' bytes. It lives in memory only, for a run of this version.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bfloat16 import as_bits
from ..errors import UserError
from ..files import regular_file
from ..parsing import parse_json
from . import checkpoint
from .checkpoint import Checkpoint, dtype_code, dtype_of

SUFFIX = ".copy"
SEAL = 9  # bytes of the CRC-32 and the end of its line


def pack(tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> memoryview:
    """Return the bytes of a file with these arrays and this record."""
    arrays = {name: as_bits(array) for name, array in tensors.items()}
    rows = [[name, dtype_code(array.dtype), array.shape] for name, array in arrays.items()]
    head = json.dumps({"arrays": rows, "meta": meta}).encode() + b"\n"
    bodies = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    data = memoryview(bytearray(b"").join([bytes(SEAL), head, *bodies]))
    data[:SEAL] = b"%08x\n" % zlib.crc32(data[SEAL:])
    return data


def load_state(path: Path) -> Checkpoint:
    """Read and verify a packed file or, of another name, a checkpoint. UserError as there."""
    if path.suffix != SUFFIX:
        return checkpoint.load(path)
    data = _verified(path)
    end = data.find(b"\n", SEAL)
    try:
        head = parse_json(data[SEAL:end])
        arrays, at = {}, end + 1
        for name, code, shape in head["arrays"]:
            array = np.frombuffer(data, dtype_of(code), math.prod(shape), at)
            arrays[name], at = array.reshape(shape), at + array.nbytes
        return Checkpoint(arrays, head["meta"], data[: SEAL - 1].decode())
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a valid copy: {error}") from error


def verify(path: Path) -> None:
    """Raise UserError unless the bytes of a packed file fit its CRC-32."""
    _verified(path)


def _verified(path: Path) -> bytes:
    try:
        with regular_file(path) as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    stated, found = data[:SEAL], b"%08x\n" % zlib.crc32(memoryview(data)[SEAL:])
    if stated != found:
        raise UserError(f"{path}: damaged: expected CRC-32 {stated!r}, got {found!r}")
    return data
