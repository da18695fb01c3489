"""CIFAR-10 and CIFAR-100: the official binary and python versions, as a folder or a tar.gz.

Described at https://www.cs.toronto.edu/~kriz/cifar.html. A binary record is one label byte (coarse
and fine ones in CIFAR-100) and 3 x 32 x 32 bytes, red plane first. The python version is a pickled
dict with a (N, 3072) uint8 array and a list of labels; `unpickle` reads it without running it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fetch import Remote, download, download_dir, folders, incomplete, missing, roots
from ..formats.packed import members, unpacking
from ..formats.unpickle import unpickle
from ..source import Bytes, DataError, Facts, Ids, ImageDataset, assemble, checked_labels

PIXELS = 3 * 32 * 32
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)


@dataclass(frozen=True)
class Version:
    """One published form of a set; `files` has, by split, the names of files and their images."""

    folder: str
    archive: str
    files: dict[str, tuple[tuple[str, int], ...]]
    pickled: bool
    sha256: str = ""


@dataclass(frozen=True)
class CifarFamily:
    """CIFAR-10 or CIFAR-100.

    `label_bytes` precede an image in binary files, the last of which is its label; `label_key` is
    the key of the labels in pickles.
    """

    label_bytes: int
    label_key: bytes
    versions: tuple[Version, ...]
    facts: Facts


def _ten(end: str) -> dict[str, tuple[tuple[str, int], ...]]:
    train = tuple((f"data_batch_{i}{end}", 10_000) for i in range(1, 6))
    return {"train": train, "test": ((f"test_batch{end}", 10_000),)}


def _hundred(end: str) -> dict[str, tuple[tuple[str, int], ...]]:
    return {"train": ((f"train{end}", 50_000),), "test": ((f"test{end}", 10_000),)}


TEN = "airplane automobile bird cat deer dog frog horse ship truck"
HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

FAMILIES = {
    "cifar10": CifarFamily(
        1,
        b"labels",
        (
            Version(
                "cifar-10-batches-bin", "cifar-10-binary.tar.gz", _ten(".bin"), False,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            Version("cifar-10-batches-py", "cifar-10-python.tar.gz", _ten(""), True),
        ),
        Facts(
            tuple(TEN.split()),
            (3, 32, 32),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
    ),
    "cifar100": CifarFamily(
        2,
        b"fine_labels",
        (
            Version(
                "cifar-100-binary", "cifar-100-binary.tar.gz", _hundred(".bin"), False,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            Version("cifar-100-python", "cifar-100-python.tar.gz", _hundred(""), True),
        ),
        Facts(
            tuple(HUNDRED.split()),
            (3, 32, 32),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
    ),
}  # fmt: skip


def load_cifar(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    fetch: bool = True,
    progress: bool = True,
    mirrors: Sequence[str] | None = None,
) -> ImageDataset:
    """Return a split of "cifar10" or "cifar100", downloading the binary archive if there is none.

    In each root, a folder is preferred to an archive and the binary version to the python one.
    Labels of CIFAR-100 are the 100 fine ones. Nothing is unpacked to disk. Raises DataError for
    missing and for damaged files.
    """
    version, path = _find(FAMILIES[name], split, data_dir) or (
        FAMILIES[name].versions[0],
        _fetch(name, data_dir, fetch, progress, mirrors),
    )
    return read_cifar(name, split, version, path)


def _find(
    family: CifarFamily, split: str, data_dir: str | os.PathLike[str] | None
) -> tuple[Version, Path] | None:
    """Return the first folder or archive that has a split; None if no folder has any of its files.

    Raises DataError if no path is complete, but a folder has some of the files.
    """
    errors: list[DataError] = []
    for version, path in _candidates(family, data_dir):
        absent = _select(version, path, (split,), present=False)
        if errors and data_dir is not None and not path.is_relative_to(data_dir):
            break  # an incomplete --data-dir is an error to correct, not to work around
        if os.path.isfile(path) or not absent:
            return version, path
        errors += incomplete(path, _select(version, path, version.files, present=True), absent)
    if errors:
        raise errors[0]
    return None


def _fetch(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    allowed: bool,
    progress: bool,
    mirrors: Sequence[str] | None,
) -> Path:
    """Download the binary archive to the cache, and return its path."""
    binary = FAMILIES[name].versions[0]
    if not allowed:
        raise missing(name, data_dir, [binary.archive], "", "downloading is switched off")
    try:
        remote = Remote(binary.archive, binary.sha256, MIRRORS)
        return download(remote, download_dir(), mirrors=mirrors, progress=progress)
    except DataError as error:
        raise missing(name, data_dir, [binary.archive], "", f"download: {error}") from error


def read_cifar(name: str, split: str, version: Version, path: Path) -> ImageDataset:
    """Return a split from a folder or a tar.gz of the given version.

    Raises DataError, which names the file as `path/file`, if one is missing or damaged or does not
    have the official number of records.
    """
    family, files = FAMILIES[name], version.files[split]
    read = _from_archive if path.is_file() else _from_folder
    decode = _decode_pickle if version.pickled else _decode_binary
    parts = [
        decode(data, f"{path / file}", count, family)
        for (file, count), data in zip(files, read(path, version, split, family), strict=True)
    ]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return assemble(name, split, images.reshape(-1, *family.facts.shape), labels, family.facts)


def _select(version: Version, folder: Path, splits: Iterable[str], present: bool) -> list[str]:
    """Return the files of some splits that are present in a folder, or those that are not."""
    files = [file for split in splits for file, _ in version.files[split]]
    return [file for file in files if present == os.path.isfile(folder / file)]


def _candidates(
    family: CifarFamily, data_dir: str | os.PathLike[str] | None
) -> Iterator[tuple[Version, Path]]:
    """Yield the folders and archives to look for, root by root, folders first."""
    for root in roots(data_dir):
        explicit = data_dir is not None and root == Path(data_dir)
        for version in family.versions:
            for folder in folders(root, [version.folder], explicit=explicit):
                yield version, folder
        for version in family.versions:
            yield version, root / version.archive


def _from_folder(folder: Path, version: Version, split: str, family: CifarFamily) -> list[bytes]:
    """Return the contents of a split's files, in order."""
    contents = []
    for file, count in version.files[split]:
        path = folder / file
        try:
            _check_size(str(path), path.stat().st_size, count, version, family)
            contents.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
    return contents


def _from_archive(path: Path, version: Version, split: str, family: CifarFamily) -> list[bytes]:
    """Return the contents of a split's files, in order; in the archive they may be in any."""
    counts = {f"{version.folder}/{file}": count for file, count in version.files[split]}
    contents: dict[str, bytes] = {}
    with unpacking(path, "tar.gz") as archive:
        for name, size in members(archive):
            if name in counts and name not in contents:
                _check_size(str(path / name), size, counts[name], version, family)
                contents[name] = archive.take(size)
            if len(contents) == len(counts):
                break
    absent = [name for name in counts if name not in contents]
    if absent:
        raise DataError(
            f"{path}: expected {len(counts)} files, got {len(contents)}: {absent[0]} is missing"
        )
    return [contents[name] for name in counts]


def _check_size(where: str, size: int, count: int, version: Version, family: CifarFamily) -> None:
    """Compare a file's size with that of its records, before the file is read."""
    expected = count * (family.label_bytes + PIXELS)
    if size == 0:
        raise DataError(f"{where}: expected {expected} bytes, got an empty file (0 bytes)")
    if version.pickled:
        # Text protocols write up to four characters per byte.
        if size > 4 * expected:
            raise DataError(f"{where}: expected at most {4 * expected} bytes, got {size}")
    elif size != expected:
        raise DataError(f"{where}: expected {expected} bytes ({count} records), got {size}")


def _decode_binary(data: bytes, where: str, count: int, family: CifarFamily) -> tuple[Bytes, Ids]:
    """Split records into images (count, 3072) and labels (count,)."""
    records = np.frombuffer(data, np.uint8).reshape(count, family.label_bytes + PIXELS)
    labels = checked_labels(records[:, family.label_bytes - 1], len(family.facts.classes), where)
    return records[:, family.label_bytes :], labels


def _decode_pickle(data: bytes, where: str, count: int, family: CifarFamily) -> tuple[Bytes, Ids]:
    """Return images (count, 3072) and labels (count,) of a pickle, all of it checked."""
    content = unpickle(data, where)
    images, answers = _entry(content, b"data", where), _entry(content, family.label_key, where)
    key = family.label_key.decode()
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise DataError(f"{where}: data: expected an array of uint8, got {_type(images)}")
    if images.shape != (count, PIXELS):
        shape = (count, PIXELS)
        raise DataError(f"{where}: data: expected an array of shape {shape}, got {images.shape}")
    # NumPy would convert other containers too, and walk through a tuple however deep it is nested.
    if not isinstance(answers, list | np.ndarray):
        raise DataError(f"{where}: {key}: expected integers, got {_type(answers)}")
    odd = [x for x in answers if type(x) is not int] if isinstance(answers, list) else []
    if odd:
        raise DataError(f"{where}: {key}: expected integers, got {_type(odd[0])}")
    labels = np.asarray(answers)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {key}: expected integers of shape {(count,)}, got {labels.dtype} "
            f"{labels.shape}"
        )
    return images, checked_labels(labels, len(family.facts.classes), where)


def _type(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


def _entry(content: dict[Any, Any], key: bytes, where: str) -> Any:
    """Return an entry whose key was written by Python 2 (bytes) or 3 (str)."""
    for form in (key, key.decode()):
        if form in content:
            return content[form]
    raise DataError(
        f"{where}: expected an entry {key.decode()!r}, got {sorted(map(str, content))[:8]}"
    )
