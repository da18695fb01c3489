"""Data sets in memory, and loaders that split their samples between ranks.

    train = load("digits", "train")
    loader = Loader(train, 128, rank=comm.rank, size=comm.size, augment=standard(train.name))
    for batch in loader.epoch(0):
        ...

Whatever is wrong with data or options raises a DataError, whose message is one line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .augment import Augment, Cutout, Flip, PadCrop, standard
from .fetch import check_data_dir
from .loader import Batch, Loader
from .sampler import HOLDING_OUT, Sampler, philox
from .sets import cifar, mnist
from .sets.digits import load_digits
from .source import DataError, Dataset, Source

__all__ = [
    "Augment",
    "Batch",
    "Cutout",
    "DataError",
    "Dataset",
    "Flip",
    "Loader",
    "PadCrop",
    "Sampler",
    "Source",
    "hold_out",
    "load",
    "names",
    "standard",
]

SPLITS = ("train", "test")


def names() -> tuple[str, ...]:
    """Return the names that `load` accepts; "digits" needs no files."""
    return ("digits", *mnist.FAMILIES, *cifar.FAMILIES)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    download: bool = True,
    progress: bool = True,
    mirrors: Sequence[str] | None = None,
) -> Dataset:
    """Load the "train" or "test" split of a data set.

    Files are searched for in `data_dir`, in the folder that the environment variable TALLYGRAD_DATA
    names, and in the cache folder, in this order. Missing files are downloaded to the cache, unless
    `download` is false; `mirrors` are base URLs that replace the built-in ones. `progress` shows a
    bar if stderr is a terminal. `seed` only affects "digits", which needs no files.

    Raises DataError for an unknown name or split, and for missing or damaged files.
    """
    if name not in names():
        raise DataError(f"--dataset: expected one of {', '.join(names())}, got {name!r}")
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    check_data_dir(data_dir)
    if name == "digits":
        return load_digits(split, seed)
    reader = mnist.load_mnist if name in mnist.FAMILIES else cifar.load_cifar
    return reader(name, split, data_dir, fetch=download, progress=progress, mirrors=mirrors)


def hold_out(dataset: Dataset, count: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split `count` samples off a data set: return the rest, and them as the split "validation".

    The selection depends only on the seed and on the size of the data set. Both parts keep the
    order of the samples. Raises DataError if either part would be empty.
    """
    size = len(dataset)
    if not 0 < count < size:
        raise DataError(
            f"--validation: expected 1 to {size - 1} of the {size} samples of "
            f"{dataset.name}/{dataset.split}, got {count}"
        )
    words = philox(seed, HOLDING_OUT, 0).random_raw(size)
    mask = np.zeros(size, bool)
    mask[np.argsort(words, kind="stable")[:count]] = True
    rest, validation = (np.flatnonzero(part).astype(np.int64) for part in (~mask, mask))
    return dataset.subset(rest, dataset.split), dataset.subset(validation, "validation")
