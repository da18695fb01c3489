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
from ..source import Bytes, DataError, Dataset, Facts, Ids, assemble, checked_labels

PIXELS = 3 * 32 * 32
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)


@dataclass(frozen=True)
class Version:
    """One published form of a set; `files` gives, for each split, names and images in each."""

    folder: str
    archive: str
    files: dict[str, tuple[tuple[str, int], ...]]
    pickled: bool
    sha256: str = ""


@dataclass(frozen=True)
class Family:
    """CIFAR-10 or CIFAR-100: label bytes before an image (the last counts), the pickles' key."""

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
    "cifar10": Family(
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
    "cifar100": Family(
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
) -> Dataset:
    """Read a split of "cifar10" or "cifar100", fetching the binary archive if there is none.

    In each root a folder is preferred to an archive and the binary version to the python one.
    Labels of CIFAR-100 are the 100 fine ones. Nothing is unpacked to disk. Raises DataError.
    """
    family = FAMILIES[name]
    parts: list[DataError] = []
    for version, place in _places(family, data_dir):
        absent = _names(version, place, (split,), found=False)
        if parts and data_dir is not None and not place.is_relative_to(data_dir):
            break  # the folder that was named is the one to be mended
        if os.path.isfile(place) or not absent:
            return read_cifar(name, split, version, place)
        parts += incomplete(place, _names(version, place, version.files, found=True), absent)
    if parts:
        raise parts[0]
    binary = family.versions[0]
    if not fetch:
        why = "downloading is switched off"
        raise missing(name, data_dir, [binary.archive], "", why)
    try:
        remote = Remote(binary.archive, binary.sha256, MIRRORS)
        archive = download(remote, download_dir(), mirrors=mirrors, progress=progress)
    except DataError as error:
        raise missing(name, data_dir, [binary.archive], "", f"fetching: {error}") from error
    return read_cifar(name, split, binary, archive)


def read_cifar(name: str, split: str, version: Version, place: Path) -> Dataset:
    """Read a split from a folder or from a tar.gz of the given version.

    Every file must have the official number of records; errors name it as `place/file`.
    """
    family, files = FAMILIES[name], version.files[split]
    read = _from_archive if place.is_file() else _from_folder
    parts = []
    for (file, count), data in zip(files, read(place, version, split, family), strict=True):
        decode = _decode_pickle if version.pickled else _decode_binary
        parts.append(decode(data, f"{place / file}", count, family))
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return assemble(name, split, images.reshape(-1, *family.facts.shape), labels, family.facts)


def _names(version: Version, place: Path, splits: Iterable[str], found: bool) -> list[str]:
    """Return which files of some splits are in a folder, or are not."""
    files = [file for split in splits for file, _ in version.files[split]]
    return [file for file in files if found == os.path.isfile(place / file)]


def _places(
    family: Family, data_dir: str | os.PathLike[str] | None
) -> Iterator[tuple[Version, Path]]:
    """Yield folders and archives to look at, root by root, folders first."""
    for root in roots(data_dir):
        explicit = data_dir is not None and root == Path(data_dir)
        for version in family.versions:
            for folder in folders(root, [version.folder], explicit=explicit):
                yield version, folder
        for version in family.versions:
            yield version, root / version.archive


def _from_folder(place: Path, version: Version, split: str, family: Family) -> list[bytes]:
    """Return the contents of a split's files, in order."""
    contents = []
    for file, count in version.files[split]:
        path = place / file
        try:
            _check_size(str(path), path.stat().st_size, count, version, family)
            contents.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
    return contents


def _from_archive(place: Path, version: Version, split: str, family: Family) -> list[bytes]:
    """Return the contents of a split's files, in order, whatever their order in the archive."""
    wanted = {f"{version.folder}/{file}": count for file, count in version.files[split]}
    contents: dict[str, bytes] = {}
    with unpacking(place, "tar.gz") as archive:
        for name, size in members(archive):
            if name in wanted and name not in contents:
                _check_size(str(place / name), size, wanted[name], version, family)
                contents[name] = archive.take(size)
            if len(contents) == len(wanted):
                break
    absent = [member for member in wanted if member not in contents]
    if absent:
        raise DataError(f"{place}: has {len(contents)} of {len(wanted)} files, no {absent[0]}")
    return [contents[member] for member in wanted]


def _check_size(where: str, size: int, count: int, version: Version, family: Family) -> None:
    """Compare a file's size with what its version must have, before it is read."""
    expected = count * (family.label_bytes + PIXELS)
    if size == 0:
        raise DataError(f"{where}: empty file (0 bytes), expected {expected}")
    if version.pickled:
        if size > 4 * expected:
            raise DataError(f"{where}: {size} bytes, a pickle of {count} images has {expected}")
    elif size != expected:
        raise DataError(f"{where}: {size} bytes, expected {expected} ({count} records)")


def _decode_binary(data: bytes, where: str, count: int, family: Family) -> tuple[Bytes, Ids]:
    """Cut records into images (count, 3072) and labels (count,)."""
    records = np.frombuffer(data, np.uint8).reshape(count, family.label_bytes + PIXELS)
    labels = checked_labels(records[:, family.label_bytes - 1], len(family.facts.classes), where)
    return records[:, family.label_bytes :], labels


def _decode_pickle(data: bytes, where: str, count: int, family: Family) -> tuple[Bytes, Ids]:
    """Take images (count, 3072) and labels (count,) out of a pickle, trusting none of it."""
    content = unpickle(data, where)
    images = _entry(content, b"data", where)
    answers = _entry(content, family.label_key, where)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise DataError(f"{where}: 'data' is {type(images).__name__}, expected a uint8 array")
    if images.shape != (count, PIXELS):
        raise DataError(f"{where}: 'data' has shape {images.shape}, expected {(count, PIXELS)}")
    if isinstance(answers, list) and not all(type(label) is int for label in answers):
        raise DataError(f"{where}: {family.label_key.decode()!r} holds something but integers")
    # What is neither would be looked through, however deep it is nested.
    labels = np.asarray(answers if isinstance(answers, list | np.ndarray) else ())
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of shape {labels.shape}, expected {(count,)} integers")
    return images, checked_labels(labels, len(family.facts.classes), where)


def _entry(content: dict[Any, Any], key: bytes, where: str) -> Any:
    """Return an entry whether the key was stored by Python 2 (bytes) or 3 (str)."""
    for form in (key, key.decode()):
        if form in content:
            return content[form]
    raise DataError(f"{where}: no entry {key.decode()!r}, found {sorted(map(str, content))[:8]}")
