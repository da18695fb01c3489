"""Data sets in memory, and loaders that share their samples out to ranks.

    train = load("digits", "train")
    loader = Loader(train, 128, rank=comm.rank, size=comm.size, augment=standard(train.name))
    for batch in loader.epoch(0):
        ...

All that is wrong with data or options is a DataError of one line.
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
    """Return the names that `load` knows; "digits" needs no files."""
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

    Files are looked for in `data_dir`, then in the folder TALLYGRAD_DATA, then in the cache folder,
    and fetched into the cache (from `mirrors`, if given) when they are in none. `seed` is that of
    the drawn set, "digits", which needs no files. Raises DataError.
    """
    if name not in names():
        raise DataError(f"--dataset {name}: unknown, expected one of {', '.join(names())}")
    if split not in SPLITS:
        raise DataError(f"split {split}: unknown, expected one of {', '.join(SPLITS)}")
    check_data_dir(data_dir)
    if name == "digits":
        return load_digits(split, seed)
    reader = mnist.load_mnist if name in mnist.FAMILIES else cifar.load_cifar
    return reader(name, split, data_dir, fetch=download, progress=progress, mirrors=mirrors)


def hold_out(dataset: Dataset, count: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return a split without `count` of its samples, and these as the split "validation".

    Which ones depends on seed and size alone; both keep their order. Raises DataError where fewer
    than one sample would be left in either.
    """
    size = len(dataset)
    if not 0 < count < size:
        raise DataError(
            f"--validation: expected 1 to {size - 1} of the {size} samples of "
            f"{dataset.name}/{dataset.split}, got {count}"
        )
    words = philox(seed, HOLDING_OUT, 0).random_raw(size)
    held = np.zeros(size, bool)
    held[np.argsort(words, kind="stable")[:count]] = True
    kept, out = (np.flatnonzero(chosen).astype(np.int64) for chosen in (~held, held))
    return dataset.subset(kept, dataset.split), dataset.subset(out, "validation")
