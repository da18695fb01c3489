"""Own data sets as NumPy archives (.npz): arrays of images and labels, by their names."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..own import Opened, Split, check_names
from ..reading import Reading
from ..source import DataError
from ..store import array_store
from .arrays import CLASSES, find_arrays

# An archive may unpack to FREE bytes plus EXPANSION times its size: deflate can expand 1032 times,
# images expand 1 to 50 times.
FREE, EXPANSION = 1 << 28, 100
UNREADABLE = (
    ValueError, EOFError, KeyError, OverflowError, RecursionError, MemoryError, SyntaxError,
    TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def open_npz(path: Path, reading: Reading) -> Opened:
    """Return what an archive holds. Raises DataError for damaged files and unknown contents."""
    try:
        names = _members(path)
        with np.load(path, allow_pickle=False) as archive:
            parts = {
                split: Split(
                    array_store(f"{path}/{images}", archive[images], reading.size), archive[labels]
                )
                for split, (images, labels) in find_arrays(str(path), names).items()
            }
            classes = next((archive[name] for name in names if name.lower() in CLASSES), None)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as a NumPy archive: {error!s:.200}") from error
    named = () if classes is None else tuple(map(str, classes.reshape(-1)))
    check_names(str(path), named)
    return Opened(path.stem, str(path), parts, named)


def _members(path: Path) -> list[str]:
    """Return the names of an archive's arrays. DataError for a name that occurs twice, and for more
    data than an archive of this size has."""
    stored = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    names = [file.filename.removesuffix(".npy") for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected arrays of different names, got {twice!r} twice")
    size, most = sum(file.file_size for file in files), FREE + EXPANSION * stored
    if size > most:
        raise DataError(f"{path}: expected to unpack to at most {most} bytes, got {size}")
    return names
