"""Checkpoints: named arrays and a record of the run in one sealed HDF5 file.

Any HDF5 tool can open the file; this module only writes with the HDF5 library. A few flipped bytes
can crash that library, so reading goes through the head of the file, which HDF5 leaves to the
user: a seal (format version, length, SHA-256 of all that follows) and an index in JSON that tells
where in the file each array lies. A second SHA-256, over names, types, shapes, values and record,
does not depend on the layout: equal contents have equal digests.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bfloat16 import BITS, NAME, as_bits
from ..errors import UserError, warn
from ..files import collect_temporaries, regular_file, replacing, user_errors
from ..parsing import MAX_DEPTH, parse_json

VERSION = 1
META = "meta.json"
# MAX_DEPTH is that of groups in the file, of values in the record and of an array's axes.
_SEAL = re.compile(rb"tallygrad checkpoint (\d{4})\nbytes (\d{20})\nsha256 ([0-9a-f]{64})\n")
_SEAL_BYTES = 125
_DTYPES = {
    np.dtype(code).str: np.dtype(code)
    for code in ("?", "<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8")
} | {NAME: BITS}
# What JSON and an index that make no sense raise; RecursionError is a RuntimeError.
_UNREADABLE = (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: arrays by fully qualified name, the record of the run, the digest.
    Those of bfloat16 have their bits in a field of that name, so that NumPy suffices."""

    tensors: dict[str, NDArray[Any]]
    meta: dict[str, Any]
    digest: str


def save(path: Path, tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> str:
    """Write a checkpoint that appears under `path` whole or not at all, and return its digest.

    Names are divided by "/" into groups. Equal contents give equal bytes. Takes as much memory
    as the file is long. Raises ValueError for names and types that a checkpoint cannot hold,
    UserError where the file cannot be written.
    """
    data, digest = compose(tensors, meta)
    write(Path(path), data)
    return digest


def compose(tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> tuple[memoryview, str]:
    """Return the bytes of a checkpoint's file, and its digest. ValueError as from `save`."""
    text = _encode(meta)
    _check_names(set(tensors))
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    digest = _digest(arrays, text)
    return _image(arrays, text, digest).getbuffer(), digest


def write(path: Path, data: memoryview) -> None:
    """Write the bytes of a checkpoint, whole or not at all. UserError where that fails."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint; UserError names the file and what is wrong with it.

    Nothing in the file is trusted: no code, link or filter in it is ever followed, and sizes
    beyond the file's own are refused before memory is taken.
    """
    with _verified(Path(path)) as file:
        try:
            return _read(file)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: not a valid checkpoint: {reason}") from error


def verify(path: Path) -> None:
    """Raise UserError unless the file has this version's seal and the seal fits its bytes."""
    with _verified(Path(path)):
        pass


class CheckpointFolder:
    """The checkpoints of one run: step-00000123.h5 for the newest steps, and best.h5.

    `best.h5` is a second name (a hard link, or a copy where the file system has none) of the best
    checkpoint, so it outlives both the pruning of old steps and a restart without any index.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(f"keep: expected at least 1 checkpoint, to resume from, got {keep}")
        self.folder = Path(folder)
        self.keep = keep

    @property
    def best_path(self) -> Path:
        """Where the best checkpoint is, if one was saved as such."""
        return self.folder / "best.h5"

    def save(
        self,
        step: int,
        tensors: Mapping[str, NDArray[Any]],
        meta: Mapping[str, Any],
        *,
        best: bool = False,
    ) -> Path:
        """Write the checkpoint of `step`, then remove old ones and what dead writers left.

        Checkpoints of later steps, which a run that went back has, are left alone.
        """
        path = self.folder / f"step-{step:08d}.h5"
        with user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save(path, tensors, meta)
        if best:
            self._mark_best(path)
        with user_errors(self.folder):
            for old in [step_path for s, step_path in self._steps() if s <= step][self.keep :]:
                old.unlink(missing_ok=True)
            collect_temporaries(self.folder)
        return path

    def newest(self, tell: Callable[[str], None] | None = None) -> Path | None:
        """Return the newest checkpoint that verifies, the best one if no step does, or None.

        Each damaged file that is skipped is told to `tell`, by default on stderr.
        """
        steps = [path for _, path in self._steps()]
        for path in [*steps, *([self.best_path] if self.best_path.exists() else [])]:
            try:
                verify(path)
                return path
            except UserError as error:
                (tell or warn)(f"checkpoint skipped: {error}")
        return None

    def has_since(self, step: int) -> bool:
        """Tell whether a checkpoint of this step or a later one verifies. Older ones are not
        read."""
        for path in [path for s, path in self._steps() if s >= step]:
            try:
                verify(path)
                return True
            except UserError:
                continue
        return False

    def _steps(self) -> list[tuple[int, Path]]:
        """Steps and their files, the newest first."""
        steps = []
        for path in self.folder.glob("step-*.h5"):
            match = re.fullmatch(r"step-(\d{8,18})\.h5", path.name)
            if match and not path.is_dir():
                steps.append((int(match[1]), path))
        return sorted(steps, reverse=True)

    def _mark_best(self, path: Path) -> None:
        """Give the file its second name, in one step like every other write."""
        with replacing(self.best_path) as temporary:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)


def newest_checkpoint(path: Path) -> Path:
    """Return `path` itself, or the newest good checkpoint if it is the folder of a run."""
    if not os.path.isdir(path):
        return path
    for folder in (path, path / "checkpoints"):
        newest = CheckpointFolder(folder).newest()
        if newest is not None:
            return newest
    raise UserError(f"{path}: no valid checkpoint in this folder or in its checkpoints/")


# -- Writing -------------------------------------------------------------------------------------


def _encode(meta: Mapping[str, Any]) -> bytes:
    """Write the record as JSON; TypeError or ValueError where it is none."""
    _check_depth(meta, MAX_DEPTH)
    return json.dumps(meta, sort_keys=True).encode("ascii")


def dtype_code(dtype: "np.dtype[Any]") -> str:
    """Return the name of a type in a file: NumPy's, little-endian, or bfloat16."""
    return NAME if dtype == BITS else dtype.newbyteorder("<").str


def dtype_of(code: str) -> "np.dtype[Any]":
    """Return the type of a name in a file. KeyError for any other."""
    return _DTYPES[code]


def _storable(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Return the array in the byte order of the file, little-endian; nearly always itself."""
    array = as_bits(np.asarray(tensor))
    dtype = _DTYPES.get(dtype_code(array.dtype))
    if dtype is None:
        raise ValueError(f"{name}: expected booleans, integers or floats, got {array.dtype}")
    return array.astype(dtype, copy=False)


def _check_names(names: set[str]) -> None:
    """Raise ValueError unless every name is a path of its own in a tree of groups."""
    for name in names:
        _check_name(name)
        parts = name.split("/")
        inside = names & {"/".join(parts[:end]) for end in range(1, len(parts))}
        if inside:
            raise ValueError(f"{name}: expected a group at {inside.pop()}, got a tensor")


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name.isprintable() or len(parts) > MAX_DEPTH or {"", ".", ".."} & set(parts):
        raise ValueError(
            f"name of a tensor: expected up to {MAX_DEPTH} printable parts between /, got {name!r}"
        )
    if name == META:
        raise ValueError(f"name of a tensor: expected any but {META}, which names the run's record")


def _check_depth(value: object, left: int) -> None:
    """Raise ValueError for nesting that later readers could only follow into a RecursionError."""
    if left < 0:
        raise ValueError(f"record: expected at most {MAX_DEPTH} levels, got more")
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(inner, Iterable) and not isinstance(inner, str):
        for item in inner:
            _check_depth(item, left - 1)


def _digest(tensors: Mapping[str, NDArray[Any]], text: bytes) -> str:
    """Hash what a checkpoint says, wherever in a file it lies."""
    digest = hashlib.sha256(text)
    for name in sorted(tensors):
        array = tensors[name]
        label = json.dumps([name, dtype_code(array.dtype), array.shape])
        digest.update(f"\n{label}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _image(arrays: Mapping[str, NDArray[Any]], text: bytes, digest: str) -> BytesIO:
    """Lay the file out in memory: on a full disk the HDF5 library crashes, Python does not."""
    import h5py  # loads slowly, and is needed for nothing else

    stored = {META: np.frombuffer(text, np.uint8), **arrays}
    longest = _index(stored, dict.fromkeys(stored, 10**19), digest)
    head = 1 << max(511, _SEAL_BYTES + len(longest)).bit_length()
    image = BytesIO()
    with h5py.File(image, "w", userblock_size=head) as file:
        file.attrs["digest"] = digest
        sets = {
            name: file.create_dataset(name, data=_integers(array), track_times=False)
            for name, array in stored.items()
        }
        for name, array in stored.items():
            if array.dtype == BITS:
                sets[name].attrs["dtype"] = NAME
        # An empty array lies nowhere.
        offsets = {name: dataset.id.get_offset() or 0 for name, dataset in sets.items()}
    index = _index(stored, offsets, digest)
    with image.getbuffer() as data:
        data[_SEAL_BYTES : _SEAL_BYTES + len(index)] = index
        data[:_SEAL_BYTES] = _seal(data[_SEAL_BYTES:])
    return image


def _integers(array: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of bfloat16 as integers, other arrays as they are."""
    return array[NAME] if array.dtype == BITS else array


def _index(stored: Mapping[str, NDArray[Any]], offsets: Mapping[str, int], digest: str) -> bytes:
    """Write the line that tells the reader each array's type, shape and place in the file."""
    rows = [[name, dtype_code(a.dtype), a.shape, offsets[name]] for name, a in stored.items()]
    return json.dumps({"digest": digest, "arrays": rows}).encode() + b"\n"


def _seal(contents: memoryview) -> bytes:
    """Return the first lines of a file that goes on with `contents`; always equally long."""
    length = _SEAL_BYTES + len(contents)
    digest = hashlib.sha256(contents).hexdigest()
    return f"tallygrad checkpoint {VERSION:04}\nbytes {length:020}\nsha256 {digest}\n".encode()


# -- Reading -------------------------------------------------------------------------------------


@contextmanager
def _verified(path: Path) -> Iterator[BufferedReader]:
    """Yield the open file, once its seal is found to be good, at the start of its index."""
    try:
        with regular_file(path) as file:
            _check_seal(path, file)
            file.seek(_SEAL_BYTES)
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _check_seal(path: Path, file: BufferedReader) -> None:
    seal = _SEAL.fullmatch(file.read(_SEAL_BYTES))
    if seal is None:
        raise UserError(f"{path}: expected a tallygrad checkpoint, got another or a damaged file")
    version, length, stated = int(seal[1]), int(seal[2]), seal[3].decode()
    if version != VERSION:
        raise UserError(f"{path}: expected format version {VERSION}, got {version}")
    size = os.fstat(file.fileno()).st_size
    if size != length:
        raise UserError(f"{path}: damaged: expected {length} bytes, got {size}")
    contents = hashlib.sha256()
    while block := file.read(1 << 20):
        contents.update(block)
    if contents.hexdigest() != stated:
        raise UserError(
            f"{path}: damaged: expected SHA-256 {stated[:12]}.., got {contents.hexdigest()[:12]}.."
        )


def _read(file: BufferedReader) -> Checkpoint:
    """Read the arrays that the index names, and hold them against their digest."""
    index = json.loads(file.readline())
    left = os.fstat(file.fileno()).st_size
    tensors: dict[str, NDArray[Any]] = {}
    for name, code, shape, offset in index["arrays"]:
        if not isinstance(name, str) or name in tensors:
            raise ValueError(f"index: expected names, each once, got {name!r}")
        tensors[name] = _read_array(file, left, name, dtype_of(code), shape, offset)
        left -= tensors[name].nbytes
    text = tensors.pop(META).tobytes()
    _check_names(set(tensors))
    digest = _digest(tensors, text)
    if index["digest"] != digest:
        raise ValueError(f"digest: expected {index['digest']!r:.16}, got {digest!r:.16}")
    return Checkpoint(tensors, _decode(text), digest)


def _read_array(
    file: BufferedReader,
    left: int,
    name: str,
    dtype: "np.dtype[Any]",
    shape: list[int],
    offset: int,
) -> NDArray[Any]:
    """Read one array; `left` is what the arrays of a file so long can still hold."""
    if len(shape) > MAX_DEPTH:
        raise ValueError(f"{name}: expected {MAX_DEPTH} dimensions at most, got {len(shape)}")
    if any(type(number) is not int or number < 0 for number in [*shape, offset]):
        raise ValueError(f"{name}: expected sizes and an offset from 0, got {shape} at {offset}")
    size = math.prod(shape) * dtype.itemsize
    if size > left:
        raise ValueError(f"{name}: expected at most {left} bytes, got {shape} of {dtype}")
    array = np.empty(shape, dtype)
    values = array.reshape(-1).view(np.uint8)
    file.seek(offset)
    if file.readinto(values.data) != size:
        raise ValueError(f"{name}: expected {size} bytes at {offset}, got the end of the file")
    if dtype.kind == "b" and values.max(initial=0) > 1:
        raise ValueError(f"{name}: expected booleans of 0 or 1, got {values.max()}")
    return array


def _decode(text: bytes) -> dict[str, Any]:
    meta = parse_json(text)
    if not isinstance(meta, dict):
        raise ValueError(f"record: expected a JSON object, got {meta!r:.60}")
    _check_depth(meta, MAX_DEPTH)
    return meta
