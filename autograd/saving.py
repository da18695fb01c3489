"""Nested dicts of tensors, arrays, numbers and texts in one file, from which no code is ever run.

The file is a NumPy archive (.npz, without compression): `tree.json` says how things are nested,
and `0.npy`, `1.npy` .. hold the numbers, bit by bit. `numpy.load(path)["0"]` reads them, too;
bfloat16 is stored as 16-bit integers, which `tree.json` says.
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import private
from .array import NDArray, array
from .device import Device, check_device
from .dtypes import bfloat16, is_narrow
from .tensor import Tensor

TREE = "tree.json"
DEEP = 100  # levels of nesting
TORCH = "one of torch: read it with torch.load, whose state dicts load_state_dict takes"
# The pickled number that files of torch before 1.6 begin with.
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
KINDS = "biufc"  # of numbers: truth values, integers, real and complex ones
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def save(state: Any, path: str | os.PathLike[str]) -> None:
    """Write a state, such as `model.state_dict()`, to a file.

    A state is made of tensors, arrays, numbers, texts, None, and dicts (with texts as keys), lists
    and tuples of these. The file appears whole or not at all. TypeError, which names the entry, for
    anything else; OSError, which names the path, where it cannot be written."""
    numbers: list[NDArray] = []
    tree = _described(state, numbers, "state", 0)
    with _replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(TREE, json.dumps(tree))
        for i, values in enumerate(numbers):
            with archive.open(f"{i}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)


def load(path: str | os.PathLike[str], map_location: Device = None) -> Any:
    """Return what `save` wrote; tensors are leaves without a gradient.

    `map_location`, the only device that there is, serves torch's scripts.

    No code of the file is run, and none takes more memory than the file is long. ValueError for a
    file that `save` did not write, or a damaged one, and for another device than the CPU."""
    check_device(map_location)
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            if file.read(len(OLD_TORCH)) == OLD_TORCH:
                raise ValueError(TORCH)
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/data.pkl") for name in archive.namelist()):
                raise ValueError(TORCH)
            reader = _Reader(archive, os.path.getsize(path))
            return reader.built(json.loads(reader.entry(TREE)))
    except ImportError:  # of what bfloat16 needs
        raise
    except Exception as error:  # of zipfile, json and NumPy's format
        # zipfile seeks to where a damaged file says: before its start is EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: expected a file of save(), got {said:.200}") from error


def _described(value: Any, numbers: list[NDArray], where: str, depth: int) -> Any:
    """Return a value as JSON holds it, and append its arrays to `numbers`."""
    if depth > DEEP:
        raise TypeError(f"{where:.80}..: expected {DEEP} levels at most")
    if isinstance(value, Tensor | np.ndarray | np.generic):
        values = np.asarray(value)
        kind = "tensor" if isinstance(value, Tensor) else "array"
        if is_narrow(values.dtype):  # NumPy can read its bits without ml_dtypes
            numbers.append(values.view(np.uint16))
            return {f"{kind} of {values.dtype}": len(numbers) - 1}
        if values.dtype.kind not in KINDS:
            raise TypeError(f"{where}: expected numbers, got an array of {values.dtype}")
        numbers.append(values)
        return {kind: len(numbers) - 1}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where}: expected texts as keys, got {key!r:.80}")
        parts = {k: _described(v, numbers, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
        return {"dict": parts}
    if type(value) in (list, tuple):
        items = [_described(v, numbers, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
        return {type(value).__name__: items}
    raise TypeError(f"{where}: expected tensors, numbers or texts, got {type(value).__name__}")


class _Reader:
    """Reads an archive of `size` bytes, and no more than that many from it."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive, self.remaining = archive, size

    def entry(self, name: str) -> bytes:
        """Return the bytes of an entry, which must be as long as it says: nothing is compressed."""
        info = self.archive.getinfo(name)
        self.remaining -= info.file_size
        if info.compress_type != zipfile.ZIP_STORED or self.remaining < 0:
            raise ValueError(f"{name}, which is longer than the file or compressed")
        return self.archive.read(info)

    def built(self, tree: Any) -> Any:
        """Return what a part of the tree stands for."""
        if not isinstance(tree, dict):
            return tree
        ((kind, inner),) = tree.items()
        if kind == "dict":
            return {key: self.built(part) for key, part in inner.items()}
        if kind in ("list", "tuple"):
            parts = [self.built(part) for part in inner]
            return parts if kind == "list" else tuple(parts)
        kind, _, stored = kind.partition(" of ")
        if kind not in ("tensor", "array") or stored not in ("", "bfloat16"):
            raise ValueError(f"an entry of kind {kind!r:.80}")
        numbers = _numbers(self.entry(f"{int(inner)}.npy"))
        if stored:
            numbers = numbers.view(bfloat16())
        return Tensor(array(numbers)) if kind == "tensor" else numbers


def _numbers(data: bytes) -> NDArray:
    """Return the array of an .npy file, whose length must be what its header says."""
    stream = BytesIO(data)
    header = _HEADERS[np.lib.format.read_magic(stream)]
    shape, columns_first, dtype = header(stream)
    if dtype.kind not in KINDS or stream.tell() + prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array {shape} of {dtype} in {len(data)} bytes")
    order: Any = "F" if columns_first else "C"
    return np.ndarray(shape, dtype, data, stream.tell(), order=order).copy("K")


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes `path` once it is on the disk.

    OSError, which names `path`, where that fails, and for a device or a pipe, which root would
    replace."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "expected a new or a regular file")
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with private.writing(folder, path.name, 0o666, sync=True) as stream:
                yield stream
        finally:
            os.close(folder)
    except OSError as error:
        said = error.strerror or str(error)
        raise OSError(error.errno, said, os.fspath(path)) from error
