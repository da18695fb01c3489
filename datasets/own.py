"""From stored images and labels to the splits of a user's own data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .formats.pictures import fit_bytes, need_pillow
from .reading import Reading
from .sampler import TESTING, philox
from .source import DataError, Ids, ImageDataset, Moments, Pixels, Source, checked_labels
from .store import ArrayStore, Part, Store, held, measure, size_of

MOST_CLASSES = 100_000
LARGE_CHUNK = 64  # images that are slow to read for one of them
READERS = 4  # threads that read ahead, so that a disk has several requests at a time


class Split(NamedTuple):
    """Stored images and the label of each: whole numbers, names, or rows with a single one."""

    images: Store
    labels: NDArray[Any]


@dataclass(frozen=True)
class Streamed:
    """One split of a data set that stays where it is stored, which implements `Source`."""

    name: str
    split: str
    store: Store
    labels: Ids
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    readers: int = READERS

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, height, width, channels = self.store.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Ids) -> Pixels:
        """Return the images of samples (n,) in a new array (n, H, W, C)."""
        return self.store.read(indices)


class Opened(NamedTuple):
    """What a file or folder holds: parts by split, "" being a part of none, and what it says of
    itself. `where` is for messages."""

    name: str
    where: str
    parts: Mapping[str, Split]
    classes: tuple[str, ...] = ()
    moments: Moments | None = None


@dataclass(frozen=True)
class Resized:
    """A store whose images are brought to another size."""

    store: Store
    size: tuple[int, int]
    fit: str

    @property
    def where(self) -> str:
        """The file or folder, for messages."""
        return self.store.where

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return self.store.shape[0], *self.size, self.store.shape[3]

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return self.store.dtype

    def read(self, indices: Ids) -> Pixels:
        """Return images (n,) in a new array (n, H, W, C)."""
        return fit_bytes(self.store.read(indices), self.size, self.fit)


def chunk_of(images: object) -> int:
    """Return how many images a shuffled one is read with, 0 where it is read alone: `images` is a
    store or a source."""
    while not hasattr(images, "layout"):
        inner = getattr(images, "store", None)
        if inner is None:
            return 0
        images = inner
    return int(images.layout["chunk"])


def fitted(opened: Opened, reading: Reading) -> Opened:
    """Return the same with images of the size of the options; if that is another one, mean and std
    are to be measured again."""
    images = {key: _fitted(part.images, reading) for key, part in opened.parts.items()}
    if all(images[key] is part.images for key, part in opened.parts.items()):
        return opened
    parts = {key: Split(images[key], part.labels) for key, part in opened.parts.items()}
    return opened._replace(parts=parts, moments=None)


def finish(opened: Opened, reading: Reading) -> dict[str, Source]:
    """Return the sources of a data set's splits. Raises DataError for labels, shapes or splits that
    do not fit."""
    name, where, parts, classes, moments = opened
    coded, names = encode(parts, classes)
    shape = _common_shape(parts)
    if reading.classes:
        coded, names = _recode(opened, coded, names, reading.classes), reading.classes
    chosen = resolve(where, {split: Split(parts[split].images, coded[split]) for split in coded},
                     reading.test_split)  # fmt: skip
    if not classes and not reading.classes:
        _check_all_occur(chosen["train"], names)
    if sum(size_of(split.images) for split in chosen.values()) <= reading.memory:
        chosen = {key: Split(held(split.images), split.labels) for key, split in chosen.items()}
    mean, std = reading.moments or moments or measure(chosen["train"].images)
    if len(mean) != shape[2] or len(std) != shape[2]:
        raise DataError(f"{where}: mean and std: expected {shape[2]} of each, one per channel, "
                        f"got {len(mean)} and {len(std)}")  # fmt: skip
    return {key: _source(name, key, split, names, (mean, std)) for key, split in chosen.items()}


def resolve(where: str, parts: Mapping[str, Split], share: float | None) -> dict[str, Split]:
    """Return the splits train, test and, of three, validation.

    Where there is no test set, the validation set is it; where there is none of either, it is a
    `share` of the samples, always the same ones, or with None all of them. DataError if a share is
    needed but not given, or given but not needed.
    """
    found = dict(parts)
    train = found.pop("train", None) or found.pop("", None)
    if train is None:
        raise DataError(f"{where}: expected training data, got only {', '.join(found) or 'none'}")
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if "test" in found:
        if share:
            raise DataError(f"--test-split: expected none, as {where} has a test set, got {share}")
        return {"train": train, **found}
    if share is None:
        return {"train": train, "test": train}
    count = len(train.labels)
    size = round(share * count)
    if not 0 < size < count:
        raise DataError(
            f"{where}: expected a test set, or --test-split such as 0.2 to take one from its "
            f"{count} samples, got {share or 'neither'}"
        )
    words = philox(0, TESTING, 0).random_raw(count)
    mask = np.zeros(count, bool)
    mask[np.argsort(words, kind="stable")[:size]] = True
    return {"train": _take(train, ~mask), "test": _take(train, mask)}


def encode(
    parts: Mapping[str, Split], classes: Sequence[str]
) -> tuple[dict[str, Ids], tuple[str, ...]]:
    """Return the labels of each part as int64 (N,), and the names of the classes: those given, else
    the names that occur, else the numbers. DataError for labels that do not fit the images."""
    for split in parts.values():
        _check_lengths(split)
    flat = {key: _flatten(split) for key, split in parts.items()}
    if any(labels.dtype.kind == "U" for labels in flat.values()):
        return _encode_names(parts, flat, classes)
    count = len(classes) or 1 + max(_largest(parts[key], labels) for key, labels in flat.items())
    checked = {key: checked_labels(flat[key], count, parts[key].images.where) for key in flat}
    return checked, tuple(classes) or tuple(map(str, range(count)))


def check_names(where: str, classes: Sequence[str]) -> None:
    """DataError for names of classes that are empty or alike but for case."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.casefold(), name)
        if not name or other is not name:
            got = f"{other!r} and {name!r}" if name else "an empty one"
            raise DataError(f"{where}: expected classes of different names, got {got}")


def _recode(
    opened: Opened, coded: Mapping[str, Ids], own: Sequence[str], classes: Sequence[str]
) -> dict[str, Ids]:
    """Return labels that number other classes, those of a model; classes whose `own` names are
    numbers only keep them."""
    if tuple(own) == tuple(map(str, range(len(own)))):
        places = {key: opened.parts[key].images.where for key in coded}
        return {key: checked_labels(ids, len(classes), places[key]) for key, ids in coded.items()}
    wrong = next((name for name in own if name not in classes), None)
    if wrong is not None:
        raise DataError(
            f"{opened.where}: expected classes of the {len(classes)} that the model was trained "
            f"with, such as {classes[0]!r}, got {wrong!r}"
        )
    numbers = np.array([classes.index(name) for name in own], np.int64)
    return {key: numbers[ids] for key, ids in coded.items()}


def _encode_names(
    parts: Mapping[str, Split], flat: Mapping[str, NDArray[Any]], classes: Sequence[str]
) -> tuple[dict[str, Ids], tuple[str, ...]]:
    names = tuple(classes) or tuple(
        sorted({str(name) for labels in flat.values() for name in np.unique(labels)})
    )
    number = {name: i for i, name in enumerate(names)}
    coded = {}
    for key, labels in flat.items():
        wrong = next((i for i, name in enumerate(labels) if str(name) not in number), None)
        if wrong is not None:
            raise DataError(
                f"{parts[key].images.where}: label at index {wrong}: expected one of {len(names)} "
                f"classes, such as {names[0]!r}, got {str(labels[wrong])!r:.60}"
            )
        coded[key] = np.array([number[str(name)] for name in labels], np.int64)
    return coded, names


def _flatten(split: Split) -> NDArray[Any]:
    """Return labels as (N,): names as text, or whole numbers."""
    labels, where = split.labels, split.images.where
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        ones = labels == 1
        if not (ones.sum(1) == 1).all() or not ((labels == 0) | ones).all():
            row = int(np.argmin((ones.sum(1) == 1) & ((labels == 0) | ones).all(1)))
            raise DataError(f"{where}: labels of row {row}: expected a single 1 among 0, "
                            f"got {labels[row][:8].tolist()}")  # fmt: skip
        labels = ones.argmax(1)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.ndim == 1 and labels.dtype.kind == "O":
        labels = _typed(labels, where)
    if labels.ndim != 1 or labels.dtype.kind not in "biufU":
        raise DataError(
            f"{where}: labels: expected whole numbers or names (N,), got {labels.dtype} "
            f"{labels.shape}"
        )
    if labels.dtype.kind == "f" and len(wrong := np.flatnonzero(~_is_whole(labels))):
        raise DataError(f"{where}: label at index {wrong[0]}: expected a whole number, "
                        f"got {labels[wrong[0]]}")  # fmt: skip
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _typed(labels: NDArray[Any], where: str) -> NDArray[Any]:
    """Return the labels of a list of objects (N,), which are numbers or names."""
    wrong = (
        i for i, one in enumerate(labels) if not isinstance(one, int | float | str | np.number)
    )
    if (i := next(wrong, None)) is not None:
        raise DataError(f"{where}: label at index {i}: expected a whole number or a name, "
                        f"got {type(labels[i]).__name__}")  # fmt: skip
    return np.array(labels.tolist())


def _is_whole(labels: NDArray[Any]) -> NDArray[np.bool_]:
    whole: NDArray[np.bool_] = np.isfinite(labels) & (labels == np.rint(labels))
    return whole


def _largest(split: Split, labels: NDArray[Any]) -> int:
    most = int(labels.max(initial=0))
    if most >= MOST_CLASSES:
        raise DataError(f"{split.images.where}: label at index {int(labels.argmax())}: expected "
                        f"less than {MOST_CLASSES}, got {most}")  # fmt: skip
    return most


def _check_lengths(split: Split) -> None:
    count, where = split.images.shape[0], split.images.where
    if count != len(split.labels):
        raise DataError(f"{where}: expected {count} labels, one per image, got {len(split.labels)}")
    if 0 in split.images.shape:
        raise DataError(f"{where}: expected at least one image with pixels, "
                        f"got shape {split.images.shape}")  # fmt: skip


def _common_shape(parts: Mapping[str, Split]) -> tuple[int, int, int]:
    """Return (H, W, C) of all images. DataError where they differ."""
    first = (parts.get("train") or next(iter(parts.values()))).images
    for split in parts.values():
        mine = split.images
        if mine.shape[1:] != first.shape[1:] or mine.dtype != first.dtype:
            raise DataError(
                f"{mine.where}: expected {first.dtype} images {first.shape[1:]} (height, width, "
                f"channels) as in {first.where}, got {mine.dtype} {mine.shape[1:]}"
            )
    return first.shape[1:]


def check_labels(parts: Mapping[str, Split], classes: Sequence[str]) -> None:
    """DataError for labels that do not fit the images and, where no names of classes are given, for
    a class without training samples."""
    coded, names = encode(parts, classes)
    key = "train" if "train" in coded else ""
    if key in coded and not classes:
        _check_all_occur(Split(parts[key].images, coded[key]), names)


def _check_all_occur(train: Split, names: Sequence[str]) -> None:
    """DataError for a class without training samples: labels that begin at 1, for example."""
    absent = np.flatnonzero(np.bincount(train.labels, minlength=len(names)) == 0)
    if len(absent):
        raise DataError(
            f"{train.images.where}: labels: expected training samples of all {len(names)} classes "
            f"0 to {len(names) - 1}, got none of {names[absent[0]]}"
        )


def _take(split: Split, mask: NDArray[np.bool_]) -> Split:
    return Split(Part(split.images, np.flatnonzero(mask).astype(np.int64)), split.labels[mask])


def _fitted(store: Store, reading: Reading) -> Store:
    """Return a store whose images have the size of the options."""
    if reading.size is None or store.shape[1:3] == reading.size:
        return store
    if store.dtype != np.uint8 or store.shape[3] not in (1, 3):
        raise DataError(
            f"{store.where}: expected bytes with 1 or 3 channels to bring to --image-size, got "
            f"{store.dtype} with {store.shape[3]}"
        )
    need_pillow(store.where)
    return Resized(store, reading.size, reading.fit)


def _source(
    name: str, key: str, split: Split, classes: tuple[str, ...], moments: Moments
) -> Source:
    store = split.images
    if isinstance(store, ArrayStore):
        images = store.images.transpose(0, 3, 1, 2)
        return ImageDataset(name, key, images, split.labels, classes, *moments)
    return Streamed(name, key, store, split.labels, classes, *moments)
