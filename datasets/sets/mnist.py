"""MNIST and Fashion-MNIST: two IDX files per split, plain or gzip, or a CSV file.

Both sets use the same file names (`train-images-idx3-ubyte` and so on), so only the folder tells
them apart. The files may hold any number of images of 28 x 28 pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fetch import Remote, download, download_dir, folders, incomplete, missing, roots
from ..formats.idx import read_idx
from ..formats.table import read_csv
from ..source import DataError, Facts, ImageDataset, assemble, checked_labels

STEMS = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
RANKS = ("idx3", "idx1")


@dataclass(frozen=True)
class MnistFamily:
    """One of the two sets: its usual folders, mirrors, SHA-256 by stem, and facts."""

    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    facts: Facts


FAMILIES = {
    "mnist": MnistFamily(
        ("mnist", "MNIST/raw", "MNIST"),
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        {
            "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        Facts(tuple("0123456789"), (1, 28, 28), (0.1307,), (0.3081,)),
    ),
    "fashion-mnist": MnistFamily(
        ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        Facts(
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            (1, 28, 28),
            (0.2860,),
            (0.3530,),
        ),
    ),
}


def load_mnist(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    fetch: bool = True,
    progress: bool = True,
    mirrors: Sequence[str] | None = None,
) -> ImageDataset:
    """Return a split of "mnist" or "fashion-mnist", downloading its two files if there are none.

    The set's own subfolders are searched first. Files directly in `data_dir` are taken for those of
    the requested set, unless the folder has the name of the other set's. A folder with only one of
    the two files is skipped; it is reported if no other folder has both, or if it is `data_dir`.
    Raises DataError for missing and for damaged files.
    """
    found = _find(name, split, data_dir)
    if isinstance(found, Path):
        return read_table(name, split, found)
    pair = found or _fetch(name, split, data_dir, fetch, progress, mirrors)
    return read_pair(name, split, *pair)


def _find(
    name: str, split: str, data_dir: str | os.PathLike[str] | None
) -> tuple[Path, Path] | Path | None:
    """Return the images and the labels file of a split, or its CSV file; None if no folder has any.

    Raises DataError if no folder has both, but one has some of the set's files.
    """
    own = FAMILIES[name].folders
    foreign = tuple(
        f for other, family in FAMILIES.items() if other != name for f in family.folders
    )
    errors: list[DataError] = []
    for root in roots(data_dir):
        explicit = data_dir is not None and root == Path(data_dir)
        if errors and not explicit and data_dir is not None:
            break  # an incomplete --data-dir is an error to correct, not to work around
        for folder in folders(root, own, foreign, explicit=explicit):
            if (pair := _pair(folder, split)) is not None:
                return pair
            if (table := _table(name, folder, split)) is not None:
                return table
            there = [file for each in STEMS for file in _select(folder, each, present=True)]
            errors += incomplete(folder, there, _select(folder, split, present=False))
    if errors:
        raise errors[0]
    return None


def _fetch(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    allowed: bool,
    progress: bool,
    mirrors: Sequence[str] | None,
) -> tuple[Path, Path]:
    """Download the two files of a split to the cache, and return their paths."""
    family, stems = FAMILIES[name], STEMS[split]
    files = [f"{stem}-{rank}-ubyte.gz" for stem, rank in zip(stems, RANKS, strict=True)]
    if not allowed:
        raise missing(name, data_dir, files, family.folders[0], "downloading is switched off")
    try:
        target = download_dir(family.folders[0])
        images, labels = (
            download(
                Remote(file, family.sha256[stem], family.mirrors),
                target,
                mirrors=mirrors,
                progress=progress,
            )
            for file, stem in zip(files, stems, strict=True)
        )
    except DataError as error:
        raise missing(name, data_dir, files, family.folders[0], f"download: {error}") from error
    return images, labels


def read_pair(name: str, split: str, images: Path, labels: Path) -> ImageDataset:
    """Return a split from its images file and its labels file.

    Raises DataError, which names the file, or both if they do not have the same number of samples.
    """
    facts = FAMILIES[name].facts

    def check_images(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if kind != "uint8" or shape[1:] != facts.shape[1:]:
            raise DataError(f"{images}: expected uint8 (N, 28, 28), got {kind} {shape}")

    def check_labels(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if kind != "uint8" or len(shape) != 1:
            raise DataError(f"{labels}: expected uint8 (N,), got {kind} {shape}")

    pixels, classes = read_idx(images, check_images), read_idx(labels, check_labels)
    if len(pixels) != len(classes):
        raise DataError(
            f"{labels}: expected {len(pixels)} labels, one per image of {images}, "
            f"got {len(classes)}"
        )
    checked = checked_labels(classes, len(facts.classes), str(labels))
    return assemble(name, split, pixels[:, None], checked, facts)


def _pair(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Return the images and the labels file of a folder, if it has both."""
    images, labels = (_existing(folder, *name) for name in zip(STEMS[split], RANKS, strict=True))
    return (images, labels) if images is not None and labels is not None else None


def _select(folder: Path, split: str, present: bool) -> list[str]:
    """Return those of a split's two files that are present in a folder, or those that are not."""
    pairs = zip(STEMS[split], RANKS, strict=True)
    return [f"{a}-{b}-ubyte" for a, b in pairs if present == bool(_existing(folder, a, b))]


def _existing(folder: Path, stem: str, rank: str) -> Path | None:
    """Return the first of a file's usual names that exists; on Kaggle, it is in a folder of the
    same name."""
    names = [f"{stem}{dot}{rank}-ubyte{end}" for end in ("", ".gz") for dot in "-."]
    paths = [*(folder / name for name in names), *(folder / name / name for name in names)]
    return next((path for path in paths if os.path.isfile(path)), None)


def _table(name: str, folder: Path, split: str) -> Path | None:
    """Return the CSV file of a split, as on Kaggle: label and pixels of an image a line."""
    path = folder / f"{name}_{split}.csv"
    return path if os.path.isfile(path) else None


def read_table(name: str, split: str, path: Path) -> ImageDataset:
    """Return a split from a CSV file. DataError for damaged ones."""
    facts = FAMILIES[name].facts
    rows = read_csv(path, 1 + math.prod(facts.shape))
    labels = checked_labels(rows[:, 0], len(facts.classes), str(path))
    images = np.ascontiguousarray(rows[:, 1:]).reshape(-1, *facts.shape)
    return assemble(name, split, images, labels, facts)
