"""Own data sets as folders of images, decoded in threads and cached as an HDF5 file."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...trainer.errors import warn
from ..fetch import cache_dir
from ..formats.pictures import Header, decode, need_pillow, read_header
from ..own import Opened, Split
from ..packing import new_file, write_packed
from ..reading import Reading
from ..source import DataError, Ids, Pixels
from .listing import Listing, list_folder

VERSION = 1  # of what is in the cache
MOST_THREADS = 16


class PictureStore:
    """Image files, decoded when they are read, which implements `Store`."""

    def __init__(
        self, listing: Listing, size: tuple[int, int], fit: str, rgb: bool, pool: ThreadPoolExecutor
    ) -> None:
        self.where, self._files = str(listing.folder), listing.files
        self.shape = (len(listing.files), *size, 3 if rgb else 1)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._decode = partial(decode, size=size, fit=fit, rgb=rgb)
        self._pool = pool

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C)."""
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        files = [self._files[index] for index in indices.tolist()]
        for i, image in enumerate(self._pool.map(self._decode, files)):
            images[i] = image
        return images


def open_folder(root: Path, reading: Reading, progress: bool, cached: bool = True) -> Opened:
    """Return what a folder of images holds.

    They are decoded once and stored in the cache, unless it cannot be written; if not `cached`,
    whenever they are read. Raises DataError for what does not fit, naming folder or file.
    """
    from .hdf5 import open_hdf5

    need_pillow(str(root))
    listings, classes = list_folder(root)
    path = _cache_path(listings, reading) if cached else None
    opened = Opened(root.resolve().name, str(root), {}, classes)
    if path is None or not path.exists():
        parts = picture_parts(listings, reading)
        if path is None or not _fill_cache(path, parts, classes, progress):
            return opened._replace(parts=parts)
    stored = open_hdf5(path, Reading())
    return opened._replace(parts=stored.parts, moments=stored.moments)


def picture_parts(listings: dict[str, Listing], reading: Reading) -> dict[str, Split]:
    """Return the images of each split, decoded when they are read, and their labels."""
    pool = ThreadPoolExecutor(threads(), thread_name_prefix="tallygrad-decoder")
    size, rgb = _common_form([*listings.values()], reading, pool)
    return {
        split: Split(PictureStore(one, size, reading.fit, rgb, pool), np.array(one.labels))
        for split, one in listings.items()
    }


def threads() -> int:
    """Return how many threads decode: one a core that this process may use."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def _common_form(
    listings: list[Listing], reading: Reading, pool: ThreadPoolExecutor
) -> tuple[tuple[int, int], bool]:
    """Return the size of all images, and whether any is in colour, where options do not say so."""
    if reading.size and reading.colors != "auto":
        return reading.size, reading.colors == "rgb"
    files = [file for listing in listings for file in listing.files]
    headers: list[Header] = list(pool.map(read_header, files))
    rgb = reading.colors == "rgb" or (
        reading.colors == "auto" and not all(header.is_grey for header in headers)
    )
    if reading.size:
        return reading.size, rgb
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        if header[:2] != first[:2]:
            raise DataError(
                f"{file}: expected {first.height} x {first.width} pixels (height x width) as "
                f"{files[0]}, got {header.height} x {header.width}; give --image-size"
            )
    return (first.height, first.width), rgb


def _cache_path(listings: dict[str, Listing], reading: Reading) -> Path | None:
    """Return the file in the cache for these files and options; None without a cache folder."""
    from PIL import __version__

    home = cache_dir()
    if home is None:
        return None
    form = [VERSION, __version__, reading.size, reading.fit, reading.colors]
    digest = hashlib.sha256(json.dumps(form).encode())
    for split, listing in listings.items():
        for file, label in zip(listing.files, listing.labels, strict=True):
            state = os.stat(file)
            row = [split, str(file.absolute()), label, state.st_size, state.st_mtime_ns]
            digest.update(json.dumps(row).encode())
    return home / "images" / f"{digest.hexdigest()[:32]}.h5"


def _fill_cache(
    path: Path, parts: dict[str, Split], classes: tuple[str, ...], progress: bool
) -> bool:
    """Decode all images into the cache; false, with a warning, where it cannot be written."""
    try:
        with new_file(path) as temporary:
            write_packed(temporary, parts, classes, progress=progress)
        return True
    except OSError as error:
        warn(f"{path}: images are not cached: {error.strerror or error}")
        return False
