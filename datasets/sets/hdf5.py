"""Own data sets as HDF5 files: arrays of images and labels, by their names, read where they lie.

`write` makes such files. Images are (N, H, W, C), one after the other or in chunks of few images,
so that a shuffled sample reads little more than itself.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..formats.chunks import GZIP, SHUFFLE, ChunkDecoder, Chunked, Contiguous, File, Reader
from ..own import Opened, Split, check_names
from ..reading import Reading
from ..source import DataError, Ids, Moments, Pixels
from ..store import channels_last_view, check_finite, kind_of, measure, pieces, pixels
from .arrays import CLASSES, find_arrays

BLOCK = 4096  # bytes that a disk reads at least; a chunk has as many images as fit
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
LAYOUT = "NHWC"  # says that channels are last, however few pixels there are
MOST_ARRAYS = 1000
# A file may unpack to FREE bytes plus EXPANSION times its size.
FREE, EXPANSION = 1 << 28, 200
READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError)
_LIBRARY = Lock()


class HdfStore:
    """Images of one array of a file, which implements `Store`."""

    def __init__(self, path: Path, array: h5py.Dataset, size: tuple[int, int] | None) -> None:
        """Raise DataError for an array that cannot hold images."""
        self.where = f"{path}{array.name}"
        shape, self._axes = channels_last_view(array.shape, size) if array.ndim > 1 else (None, ())
        if array.ndim == 4 and _text(array.attrs.get("layout", "")) == LAYOUT:
            shape, self._axes = array.shape, (0, 1, 2, 3)
        kind = kind_of(array.dtype) if array.dtype.fields is None else None
        if shape is None or kind is None:
            raise DataError(
                f"{self.where}: expected numbers (N, H, W, C), (N, C, H, W), (N, H, W) or (N, D), "
                f"got {array.dtype} {array.shape}"
            )
        self.dtype, self._form = kind, shape[1:]
        self._row, self._type = array.shape[1:], array.dtype
        count, height, width, channels = (shape[axis] for axis in self._axes)
        self.shape = (count, height, width, channels)
        self.layout = describe_layout(array)
        self.digest = _text(array.parent.attrs.get("sha256", ""))
        self._reader = _reader(path, array)

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C)."""
        rows = np.empty((len(indices), *self._row), self._type)
        self._reader.fill(rows, indices)
        images = rows.reshape(-1, *self._form) if len(indices) else rows.reshape(0, *self._form)
        images = pixels(np.ascontiguousarray(images.transpose(self._axes)))
        return check_finite(images, self.where, indices)


def open_hdf5(path: Path, reading: Reading) -> Opened:
    """Return what a file holds. Raises DataError for damaged files and unknown contents."""
    try:
        # Opened by Python, which says what is wrong with a path in few words.
        with path.open("rb") as opened, h5py.File(opened, "r") as file:
            arrays = _arrays(path, file)
            parts = {
                split: Split(HdfStore(path, arrays[images], reading.size), _labels(arrays[labels]))
                for split, (images, labels) in find_arrays(str(path), arrays).items()
            }
            named = next((arrays[name] for name in arrays if name.lower() in CLASSES), None)
            classes = () if named is None else tuple(map(str, _labels(named).reshape(-1)))
            moments = _moments(file)
            name = _text(file.attrs.get("name", ""))[:100]
    except DataError:
        raise
    except READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read as HDF5: {reason!s:.200}") from error
    check_names(str(path), classes)
    return Opened(name or path.stem, str(path), parts, classes, moments)


def write(
    path: Path,
    parts: Mapping[str, Split],
    classes: tuple[str, ...],
    moments: Moments | None = None,
    compression: str = "none",
    name: str = "",
    tell: Callable[[int], object] = lambda count: None,
) -> None:
    """Write parts to a new file with the names of the classes, mean and std, which are measured
    unless they are given; call `tell` with the number of images of each piece written.

    OSError where it cannot be written.
    """
    size = sum(math.prod(p.images.shape) * p.images.dtype.itemsize for p in parts.values())
    free = os.statvfs(path.parent)
    if compression == "none" and size > free.f_bavail * free.f_frsize:
        raise OSError(f"expected {size} bytes of free disk space, got "
                      f"{free.f_bavail * free.f_frsize}")  # fmt: skip
    with _written(path, "x+", "w") as (file, check):
        file.attrs["tallygrad"], file.attrs["name"] = 1, name
        names = np.array([name.encode() for name in classes])
        file.create_dataset("classes", data=names, track_times=False)
        for key, part in parts.items():
            for count in _write_part(file.require_group(key or "/"), part, compression):
                check()
                tell(count)
    moments = moments or _measure(path)
    with _written(path, "r+", "r+") as (file, check):
        file.attrs["mean"], file.attrs["std"] = (np.array(values) for values in moments)


class _Unfailing(FileIO):
    """A file for the HDF5 library, which crashes where a disk is full: it is told of no failure to
    write, and `failure` keeps the first."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the data, or pretend to."""
        view, start = memoryview(data), self.tell()
        done = 0
        while done < len(view) and self.failure is None:
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.failure = error
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or pretend to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raise the first failure."""
        if self.failure is not None:
            raise self.failure


@contextmanager
def _written(path: Path, mode: str, how: str) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Open a file to write, with a function that raises OSError if that has failed so far."""
    with _Unfailing(path, mode) as stream:
        try:
            with h5py.File(stream, how, libver="latest") as file:
                yield file, stream.check
        except (RuntimeError, ValueError):  # of a library that could not read what it had written
            stream.check()
            raise
        stream.check()


def _measure(path: Path) -> Moments:
    """Return mean and std of the training images in a file: to make them again may take long."""
    parts = open_hdf5(path, Reading()).parts
    return measure((parts.get("train") or parts[""]).images)


def _write_part(group: h5py.Group, part: Split, compression: str) -> Iterator[int]:
    """Write a part, and yield the number of images of each piece written."""
    store, digest, start = part.images, hashlib.sha256(), 0
    row = math.prod(store.shape[1:]) * store.dtype.itemsize
    options = _options(compression, max(1, BLOCK // max(row, 1)), store.dtype.itemsize)
    if "chunks" in options:
        options["chunks"] = (min(options["chunks"][0], store.shape[0]), *store.shape[1:])
    images = group.create_dataset("images", store.shape, store.dtype, track_times=False, **options)
    images.attrs["layout"] = LAYOUT
    for piece in pieces(store):
        images[start : start + len(piece)] = piece
        digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        start += len(piece)
        yield len(piece)
    labels = part.labels.astype("<i8")
    digest.update(labels.tobytes())
    group.create_dataset("labels", data=labels, track_times=False)
    group.attrs["sha256"] = digest.hexdigest()


def _options(compression: str, length: int, itemsize: int) -> dict[str, Any]:
    """Return what `create_dataset` needs for a compression; chunks are (length,)."""
    if compression == "none":
        return {}
    if compression == "gzip":
        return {"chunks": (length,), "compression": 4, "shuffle": itemsize > 1}
    try:
        import hdf5plugin
    except ImportError as error:
        raise DataError(
            f"--compression: expected none or gzip without hdf5plugin, got {compression} "
            "(pip install hdf5plugin)"
        ) from error
    made = {"lz4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd, "blosc": hdf5plugin.Blosc}
    return {"chunks": (length,), **made[compression]()}


def describe_layout(array: h5py.Dataset) -> dict[str, Any]:
    """Return how an array is stored: images a chunk (0: no chunks), filters, bytes on disk."""
    plist = array.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    names = [FILTERS.get(code) or name.decode("ascii", "replace") for code, _, _, name in filters]
    return {
        "chunk": array.chunks[0] if array.chunks else 0,
        "filters": names,
        "stored": array.id.get_storage_size(),
    }


def _arrays(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of a file and of its groups by name. DataError for one that lies in another
    file, and for one that claims more than a file of this size holds."""
    names = list(file)[:MOST_ARRAYS]
    for name in list(names):
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(
            file[name], h5py.Group
        ):
            names += [f"{name}/{child}" for child in list(file[name])[:MOST_ARRAYS]]
    arrays = {}
    most = FREE + EXPANSION * os.path.getsize(path)
    for name in names:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: {name}: expected an array in this file, got a link")
        array = file[name]
        if isinstance(array, h5py.Dataset):
            if array.is_virtual or array.external:
                raise DataError(
                    f"{path}: {name}: expected an array in this file, got one elsewhere"
                )
            if array.nbytes > most:
                raise DataError(
                    f"{path}: {name}: expected at most {most} bytes in a file of this size, "
                    f"got {array.nbytes}"
                )
            arrays[name] = array
    return arrays


def _moments(file: h5py.File) -> Moments | None:
    if "mean" not in file.attrs or "std" not in file.attrs:
        return None
    mean, std = (
        tuple(np.asarray(file.attrs[key], np.float64).reshape(-1).tolist())
        for key in ("mean", "std")
    )
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
        raise ValueError(f"mean, std: expected finite numbers and std above 0, got {mean}, {std}")
    return mean, std


def _labels(array: h5py.Dataset) -> NDArray[Any]:
    """Return an array of labels; strings of any length as NumPy's."""
    if h5py.check_string_dtype(array.dtype) is None:
        return np.asarray(array[()])
    return np.asarray(array.asstr()[()], np.str_)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _reader(path: Path, array: h5py.Dataset) -> Reader:
    """Return the fastest reader of an array's rows: past the library, where its layout allows."""
    row = math.prod(array.shape[1:]) * array.dtype.itemsize
    offset = array.id.get_offset()
    if array.chunks is None and offset is not None:
        return Contiguous(File(path), offset, row)
    length = array.chunks[0] if array.chunks else max(1, BLOCK // max(row, 1))
    return Chunked(length, _chunk_decoder(path, array) or _library_decoder(path, array, length))


def _library_decoder(path: Path, array: h5py.Dataset, length: int) -> Callable[[int], NDArray[Any]]:
    """Return a function that lets HDF5 decode: for its other filters and chunks of other forms."""
    _load_plugins(array)
    array = h5py.File(path, "r")[array.name]  # which stays open

    def decode(number: int) -> NDArray[Any]:
        try:
            with _LIBRARY:
                rows: NDArray[Any] = array[number * length : (number + 1) * length]
                return rows
        except READ_ERRORS as error:
            raise DataError(
                f"{path}{array.name}: images from {number * length} on cannot be read: "
                f"{error!s:.200}"
            ) from error

    return decode


def _load_plugins(array: h5py.Dataset) -> None:
    plist = array.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if all(h5py.h5z.filter_avail(code) for code in codes):
        return
    try:
        import hdf5plugin  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{array.file.filename}{array.name}: needs hdf5plugin for its compression "
            f"({', '.join(describe_layout(array)['filters'])}) (pip install hdf5plugin)"
        ) from error


def _chunk_decoder(path: Path, array: h5py.Dataset) -> ChunkDecoder | None:
    """Return a decoder of chunks of whole rows, None where the library must decode."""
    plist = array.id.get_create_plist()
    codes = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    whole = array.chunks is not None and array.chunks[1:] == array.shape[1:]
    known = whole and set(codes) <= {GZIP, SHUFFLE} and hasattr(array.id, "chunk_iter")
    if not known or array.file.userblock_size:
        return None
    count = -(-array.shape[0] // array.chunks[0])
    offsets, sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    masks = set()

    def take(info: Any) -> None:
        number = info.chunk_offset[0] // array.chunks[0]
        offsets[number], sizes[number] = info.byte_offset, info.size
        masks.add(info.filter_mask)

    array.id.chunk_iter(take)
    if masks - {0}:
        return None  # some chunks were written without some filters
    return ChunkDecoder(File(path), array.chunks, array.dtype, offsets, sizes, codes)
