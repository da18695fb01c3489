"""MNIST and Fashion-MNIST: two IDX files a split, plain or gzip.

Both sets use the same file names (`train-images-idx3-ubyte` and so on), so only the folder tells
them apart. The number of images is what the files say; their size must be 28 x 28.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fetch import Remote, download, download_dir, folders, incomplete, missing, roots
from ..formats.idx import read_idx
from ..source import DataError, Dataset, Facts, assemble, checked_labels

STEMS = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
RANKS = ("idx3", "idx1")


@dataclass(frozen=True)
class Family:
    """One of the two sets: the folders it lies in, the files' checksums, the facts."""

    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    facts: Facts


FAMILIES = {
    "mnist": Family(
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
    "fashion-mnist": Family(
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
) -> Dataset:
    """Read a split of "mnist" or "fashion-mnist", fetching its two files if they are nowhere.

    The sub-folders of the set itself are looked at first; files directly in `data_dir` are taken
    for the set that was asked for, unless the folder is named like the other one. A folder with
    only one of the two files is passed over, and named where no other has both, or where it is the
    `data_dir`. Raises DataError.
    """
    family = FAMILIES[name]
    parts: list[DataError] = []
    foreign = tuple(f for other, fam in FAMILIES.items() if other != name for f in fam.folders)
    for root in roots(data_dir):
        explicit = data_dir is not None and root == Path(data_dir)
        if parts and not explicit and data_dir is not None:
            break  # the folder that was named is the one to be mended
        for folder in folders(root, family.folders, foreign, explicit=explicit):
            if (pair := _pair(folder, split)) is not None:
                return read_pair(name, split, *pair)
            there = [name for each in STEMS for name in _names(folder, each, found=True)]
            parts += incomplete(folder, there, _names(folder, split, found=False))
    if parts:
        raise parts[0]
    names = [f"{stem}-{rank}-ubyte.gz" for stem, rank in zip(STEMS[split], RANKS, strict=True)]
    if not fetch:
        raise missing(name, data_dir, names, family.folders[0], "downloading is switched off")
    try:
        target = download_dir(family.folders[0])
        images, labels = (
            download(
                Remote(file, family.sha256[stem], family.mirrors),
                target,
                mirrors=mirrors,
                progress=progress,
            )
            for file, stem in zip(names, STEMS[split], strict=True)
        )
    except DataError as error:
        raise missing(name, data_dir, names, family.folders[0], f"fetching: {error}") from error
    return read_pair(name, split, images, labels)


def read_pair(name: str, split: str, images: Path, labels: Path) -> Dataset:
    """Read an images file and its labels file, and check that they belong together.

    Raises DataError that names the file, and both files where their counts differ.
    """
    facts = FAMILIES[name].facts

    def check_images(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if kind != "uint8" or shape[1:] != facts.shape[1:]:
            raise DataError(f"{images}: {kind} of shape {shape}, expected uint8 (N, 28, 28)")

    def check_labels(kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if kind != "uint8" or len(shape) != 1:
            raise DataError(f"{labels}: {kind} of shape {shape}, expected uint8 (N,)")

    pixels, answers = read_idx(images, check_images), read_idx(labels, check_labels)
    if len(pixels) != len(answers):
        raise DataError(f"{images}: {len(pixels)} images, but {labels}: {len(answers)} labels")
    checked = checked_labels(answers, len(facts.classes), str(labels))
    return assemble(name, split, pixels[:, None], checked, facts)


def _pair(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Return the images and the labels file of a folder, if it holds both."""
    found = [_existing(folder, *both) for both in zip(STEMS[split], RANKS, strict=True)]
    images, labels = found
    return (images, labels) if images is not None and labels is not None else None


def _names(folder: Path, split: str, found: bool) -> list[str]:
    """Return which of a split's two files are in a folder, or are not."""
    pairs = zip(STEMS[split], RANKS, strict=True)
    return [f"{a}-{b}-ubyte" for a, b in pairs if found == bool(_existing(folder, a, b))]


def _existing(folder: Path, stem: str, rank: str) -> Path | None:
    """Return the first that exists of the names a file goes by."""
    names = (f"{stem}{dot}{rank}-ubyte{end}" for end in ("", ".gz") for dot in "-.")
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)
