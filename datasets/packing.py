"""Write a data set as one HDF5 file, made for reading samples in any order, and check data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from ..autograd.atomic import publishing
from .own import Opened, Split, check_labels, encode
from .source import DataError, Ids, Moments, Pixels, Source
from .store import Store

PIECE = 256  # images that are checked at a time
MOST_FAULTS = 20


@dataclass(frozen=True)
class SourceStore:
    """The images of a source, as a store."""

    source: Source

    @property
    def where(self) -> str:
        """Name and split, for messages."""
        return f"{self.source.name}/{self.source.split}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        channels, height, width = self.source.input_shape
        return len(self.source), height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        return self.source.read(np.arange(1)).dtype

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C)."""
        return self.source.read(indices)


def as_opened(name: str, splits: Mapping[str, Source]) -> Opened:
    """Return the splits of a data set as what a file would hold."""
    first = next(iter(splits.values()))
    parts = {key: Split(SourceStore(source), source.labels) for key, source in splits.items()}
    return Opened(name, name, parts, first.classes, (first.mean, first.std))


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name for a file to write, in the same folder, that becomes `path`, or vanishes if the
    block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.part")
    with publishing(str(temporary), str(path)):
        yield temporary


def write_packed(
    path: Path,
    parts: Mapping[str, Split],
    classes: tuple[str, ...],
    moments: Moments | None = None,
    compression: str = "none",
    name: str = "",
    progress: bool = False,
) -> None:
    """Write images with numbers as labels, the names of the classes, mean and std to a new file."""
    from .sets.hdf5 import write

    coded, names = encode(parts, classes)
    coded_parts = {key: Split(parts[key].images, coded[key]) for key in parts}
    total = sum(len(part.labels) for part in parts.values())
    bar = tqdm(total=total, desc=path.name, unit="image", disable=None if progress else True)
    with bar:
        write(path, coded_parts, names, moments, compression, name, bar.update)


def pack(opened: Opened, path: Path, compression: str = "none", progress: bool = True) -> None:
    """Write a data set to an HDF5 file, which appears complete or not at all.

    DataError for data that do not fit, and where the file cannot be written.
    """
    name, where, parts, classes, moments = opened
    for part in parts.values():
        if part.images.shape[1:] != next(iter(parts.values())).images.shape[1:]:
            raise DataError(f"{where}: expected images of one size, got {part.images.shape[1:]}")
    check_labels(parts, classes)
    try:
        with new_file(path) as temporary:
            write_packed(temporary, parts, classes, moments, compression, name, progress)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def faults(opened: Opened) -> Iterator[str]:
    """Yield a line for each fault of a data set, all of whose images are read: images that cannot
    be read, contents that differ from the SHA-256 on record, images of the training set that are in
    another split too, and labels that do not fit."""
    try:
        check_labels(opened.parts, opened.classes)
    except DataError as error:
        yield str(error)
    hashes: dict[str, set[bytes]] = {}
    for key, part in opened.parts.items():
        hashes[key] = set()
        yield from _faults_of(part, hashes[key])
    train = hashes.pop("train", set())
    for key, others in hashes.items():
        if common := len(train & others):
            yield f"{opened.where}: expected no image of train in {key} too, got {common}"


def _faults_of(part: Split, hashes: set[bytes]) -> Iterator[str]:
    """Yield the faults of one split, and take down a hash of each image."""
    where, recorded = part.images.where, getattr(part.images, "digest", "")
    whole, count = hashlib.sha256(), 0
    for image in _images(part.images):
        if isinstance(image, str):
            yield image
            count += 1
        else:
            data = np.ascontiguousarray(image).tobytes()
            whole.update(data)
            hashes.add(hashlib.blake2b(data, digest_size=16).digest())
        if count == MOST_FAULTS:
            yield f"{where}: further faults are not shown"
            return
    whole.update(part.labels.astype("<i8").tobytes() if recorded else b"")
    if recorded and not count and whole.hexdigest() != recorded:
        yield f"{where}: expected SHA-256 {recorded[:16]} as recorded, got {whole.hexdigest()[:16]}"


def _images(store: Store) -> Iterator[Pixels | str]:
    """Yield each image, or what is wrong with it."""
    for start in range(0, store.shape[0], PIECE):
        indices = np.arange(start, min(start + PIECE, store.shape[0]))
        try:
            yield from store.read(indices)
        except DataError:
            for index in indices.tolist():
                try:
                    yield store.read(np.array([index]))[0]
                except DataError as error:
                    yield str(error)
