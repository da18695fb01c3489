"""Checkpoints: named arrays and a record of the run in one sealed HDF5 file.

The first 512 bytes, which HDF5 leaves to the user, are the seal: three lines of text with the
format's version, the length of the file and the SHA-256 of all that follows. It is checked before
the HDF5 library sees a byte, because a damaged file can make that library crash. A second SHA-256,
over names, types, shapes, values and record, does not depend on the layout of the file: equal
contents have equal digests.
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .errors import UserError

VERSION = 1
META = "meta.json"
MAX_META = 64 << 20
MAX_DEPTH = 32  # of groups in the file, and of values in the record
MAX_TENSORS = 1 << 20
_SEAL_BYTES = 512
_SEAL = re.compile(rb"tallygrad checkpoint (\d{1,9})\nbytes (\d{1,19})\nsha256 ([0-9a-f]{64})\n")
# What h5py, NumPy and json raise on contents that they cannot make sense of.
_UNREADABLE = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError) + (
    OSError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: arrays by fully qualified name, the record of the run, the digest."""

    tensors: dict[str, NDArray[Any]]
    meta: dict[str, Any]
    digest: str


def save(path: Path, tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> str:
    """Write a checkpoint that appears under `path` whole or not at all, and return its digest.

    Names are divided by "/" into groups. Equal contents give equal bytes. Takes as much memory
    as the file is long. Raises ValueError for names and types that a checkpoint cannot hold,
    UserError where the file cannot be written.
    """
    path = Path(path)
    text = _encode(meta)
    _check_names(set(tensors))
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    digest = _digest(arrays, text)
    image = _image(arrays, text, digest)
    with _replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(image.getbuffer())
    return digest


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint; UserError names the file and what is wrong with it.

    Nothing in the file is trusted: links, virtual and external data, types other than plain
    numbers, filters, and sizes beyond the file's own are refused before memory is taken.
    """
    path = Path(path)
    verify(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            tensors = _read_tensors(file, path.stat().st_size)
            text = tensors.pop(META).tobytes()
            stated = file.attrs["digest"]
        checkpoint = Checkpoint(tensors, _decode(text), _digest(tensors, text))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a valid checkpoint: {reason}") from error
    if not isinstance(stated, str) or stated != checkpoint.digest:
        raise UserError(f"{path}: damaged: the contents do not match their digest")
    return checkpoint


def verify(path: Path) -> None:
    """Raise UserError unless the file has this version's seal and the seal fits its bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(_SEAL_BYTES)
            seal = _SEAL.match(head)
            if seal is None or head[seal.end() :].strip(b"\0"):
                raise UserError(f"{path}: not a checkpoint of tallygrad, or damaged")
            version, length, stated = int(seal[1]), int(seal[2]), seal[3].decode()
            if version != VERSION:
                raise UserError(f"{path}: format version {version}, this program reads {VERSION}")
            found = os.fstat(file.fileno()).st_size
            if found != length:
                raise UserError(f"{path}: damaged: {found} bytes long, should be {length}")
            if hashlib.file_digest(file, "sha256").hexdigest() != stated:
                raise UserError(f"{path}: damaged: the bytes do not match their SHA-256")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


class CheckpointFolder:
    """The checkpoints of one run: step-00000123.h5 for the newest steps, and best.h5.

    `best.h5` is a second name (a hard link, or a copy where the file system has none) of the best
    checkpoint, so it outlives both the pruning of old steps and a restart without any index.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(f"cannot keep {keep} checkpoints: at least 1 is needed to resume")
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
        with _user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save(path, tensors, meta)
        if best:
            self._mark_best(path)
        for old in [step_path for s, step_path in self._steps() if s <= step][self.keep :]:
            old.unlink(missing_ok=True)
        self._collect()
        return path

    def newest(self, warn: Callable[[str], None] | None = None) -> Path | None:
        """Return the newest checkpoint that verifies, the best one if no step does, or None.

        Each damaged file that is skipped is told to `warn`, by default on stderr.
        """
        steps = [path for _, path in self._steps()]
        for path in [*steps, *([self.best_path] if self.best_path.exists() else [])]:
            try:
                verify(path)
                return path
            except UserError as error:
                (warn or _warn)(f"checkpoint skipped: {error}")
        return None

    def _steps(self) -> list[tuple[int, Path]]:
        """Steps and their files, the newest first."""
        found = []
        for path in self.folder.glob("step-*.h5"):
            match = re.fullmatch(r"step-(\d{8,18})\.h5", path.name)
            if match:
                found.append((int(match[1]), path))
        return sorted(found, reverse=True)

    def _mark_best(self, path: Path) -> None:
        with _replacing(self.best_path) as temporary:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)

    def _collect(self) -> None:
        for path in self.folder.glob(".*.tmp"):
            if _is_stale(path):
                path.unlink(missing_ok=True)


def _warn(line: str) -> None:
    print(f"tallygrad: warning: {line}", file=sys.stderr, flush=True)


# -- Writing -------------------------------------------------------------------------------------


def _encode(meta: Mapping[str, Any]) -> bytes:
    _check_depth(meta, MAX_DEPTH)
    text = json.dumps(meta, sort_keys=True).encode("ascii")
    if len(text) > MAX_META:
        raise ValueError(f"the record has {len(text)} bytes, a checkpoint holds {MAX_META}")
    return text


def _storable(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(tensor)
    _check_dtype(name, array.dtype)
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)


def _check_names(names: set[str]) -> None:
    for name in names:
        _check_name(name)
        parts = name.split("/")
        inside = names & {"/".join(parts[:end]) for end in range(1, len(parts))}
        if inside:
            raise ValueError(f"{name}: {inside.pop()} is a tensor and cannot hold another")


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name.isprintable() or len(parts) > MAX_DEPTH or {"", ".", ".."} & set(parts):
        raise ValueError(f"{name!r} cannot name a tensor")
    if name == META:
        raise ValueError(f"{META} is the name of the run's record, not of a tensor")


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise ValueError(f"the record is nested more than {MAX_DEPTH} deep")
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(inner, Iterable) and not isinstance(inner, str):
        for item in inner:
            _check_depth(item, left - 1)


def _check_dtype(name: str, dtype: "np.dtype[Any]") -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"{name}: cannot store {dtype}, only booleans, integers and floats")


def _digest(tensors: Mapping[str, NDArray[Any]], text: bytes) -> str:
    digest = hashlib.sha256(text)
    for name in sorted(tensors):
        array = tensors[name]
        label = json.dumps([name, array.dtype.str, array.shape])
        digest.update(f"\n{label}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _image(arrays: Mapping[str, NDArray[Any]], text: bytes, digest: str) -> io.BytesIO:
    """Lay the file out in memory: on a full disk the HDF5 library crashes, Python does not."""
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=_SEAL_BYTES) as file:
        file.attrs["digest"] = digest
        # Not an attribute: those end at 64 KiB.
        file.create_dataset(META, data=np.frombuffer(text, np.uint8), track_times=False)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
    with image.getbuffer() as data:
        data[:_SEAL_BYTES] = _seal(data[_SEAL_BYTES:])
    return image


def _seal(contents: memoryview) -> bytes:
    length = _SEAL_BYTES + len(contents)
    digest = hashlib.sha256(contents).hexdigest()
    lines = f"tallygrad checkpoint {VERSION}\nbytes {length}\nsha256 {digest}\n"
    return lines.encode().ljust(_SEAL_BYTES, b"\0")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder that becomes `path` once it is on the disk."""
    temporary = path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}.tmp")
    with _user_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, path)
            _sync(path.parent, os.O_RDONLY)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_stale(temporary: Path) -> bool:
    """Whether nobody writes this file any more; a writer on another node gets an hour."""
    try:
        age = time.time() - temporary.stat().st_mtime
        _, host, pid = temporary.name.removesuffix(".tmp").rsplit("~", 2)
        if host == socket.gethostname() and int(pid) != os.getpid():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    # This process writes one file at a time, so its number here is a predecessor's.
    return age > 3600 or (host == socket.gethostname() and int(pid) == os.getpid())


# -- Reading -------------------------------------------------------------------------------------


def _decode(text: bytes) -> dict[str, Any]:
    meta = json.loads(text)
    if not isinstance(meta, dict):
        raise ValueError("its record is not a JSON object")
    _check_depth(meta, MAX_DEPTH)
    return meta


def _read_tensors(file: h5py.File, file_size: int) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    left = file_size
    for name, dataset in _datasets(file, "", set()):
        size = _declared_bytes(name, dataset)
        left -= size
        if left < 0 or len(tensors) > MAX_TENSORS:
            raise ValueError(f"{name}: declares more data than the file holds")
        tensors[name] = np.asarray(dataset[()])
    return tensors


def _datasets(group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    for part in group:
        name = f"{prefix}{part}"
        if name != META:
            _check_name(name)
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name}: links to other places are refused")
        entry = group[part]
        # A second name would allow circles, and a tree that never ends.
        address = h5py.h5o.get_info(entry.id).addr
        if address in seen:
            raise ValueError(f"{name}: is a second name of another entry")
        seen.add(address)
        if isinstance(entry, h5py.Group):
            yield from _datasets(entry, f"{name}/", seen)
        elif isinstance(entry, h5py.Dataset):
            yield name, entry
        else:
            raise ValueError(f"{name}: neither a group nor a tensor")


def _declared_bytes(name: str, dataset: h5py.Dataset) -> int:
    """Check how a dataset is stored, without reading it, and return its size in memory."""
    _check_dtype(name, dataset.dtype)
    if dataset.shape is None:
        raise ValueError(f"{name}: has no shape")
    creation = dataset.id.get_create_plist()
    plain = creation.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not plain or creation.get_nfilters() or creation.get_external_count():
        raise ValueError(f"{name}: is not stored as one plain block in this file")
    size: int = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size != dataset.id.get_storage_size():
        raise ValueError(f"{name}: declares {size} bytes, the file has another number")
    return size
