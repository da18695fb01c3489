"""Data sets, and loaders that split their samples between ranks.

    train = load("digits", "train")  # or a folder of images, or a file: "pets/", "pets.h5"
    loader = Loader(train, 128, rank=comm.rank, size=comm.size, augment=standard(train.name))
    for batch in loader.epoch(0):
        ...

A data set of your own is any object with `__len__` and `__getitem__`, for a `DataLoader`: it,
`Dataset`, `TensorDataset`, `Subset`, `random_split` and samplers have torch's names and arguments.
Whatever is wrong with data or options raises a DataError, whose message is one line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..trainer.user_code import names_code
from .augment import (
    AlternatingFlip,
    Augment,
    Brightness,
    Contrast,
    Cutout,
    Flip,
    PadCrop,
    ResizedCrop,
    Rotate,
    parse_augment,
    standard,
)
from .collate import default_collate
from .data_loader import DataLoader
from .drawing import SubsetRandomSampler, WeightedRandomSampler
from .fetch import check_data_dir
from .indices import IndexLoader
from .loader import Batch, Loader
from .own import LARGE_CHUNK, Opened, chunk_of, finish, fitted
from .packing import as_opened, faults, pack
from .reading import Reading
from .sampler import HOLDING_OUT, Sampler, philox
from .samples import ConcatDataset, Dataset, TensorDataset, random_split
from .sets import cifar, mnist
from .sets.code import open_code
from .sets.digits import load_digits
from .sets.folder import open_folder
from .sets.npz import open_npz
from .source import DataError, ImageDataset, Source, Subset

__all__ = [
    "LARGE_CHUNK",
    "AlternatingFlip",
    "Augment",
    "Batch",
    "Brightness",
    "ConcatDataset",
    "Contrast",
    "Cutout",
    "DataError",
    "DataLoader",
    "Dataset",
    "Flip",
    "ImageDataset",
    "IndexLoader",
    "Loader",
    "Opened",
    "PadCrop",
    "Reading",
    "ResizedCrop",
    "Rotate",
    "Sampler",
    "Source",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "as_opened",
    "chunk_of",
    "default_collate",
    "faults",
    "hold_out",
    "is_own",
    "load",
    "load_own",
    "names",
    "open_own",
    "pack",
    "parse_augment",
    "random_split",
    "standard",
]

SPLITS = ("train", "test")
ARCHIVES, HDF5, CODE = (".npz",), (".h5", ".hdf5"), ".py"


def names() -> tuple[str, ...]:
    """Return the names of the built-in data sets; "digits" needs no files."""
    return ("digits", *mnist.FAMILIES, *cifar.FAMILIES)


def is_own(name: str) -> bool:
    """Tell whether a name is the path of a user's own data set, rather than a built-in one's."""
    known = Path(name).suffix.lower() in (*ARCHIVES, *HDF5, CODE) or names_code(name)
    return name not in names() and (known or os.sep in name or os.path.exists(name))


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    download: bool = True,
    progress: bool = True,
    mirrors: Sequence[str] | None = None,
    reading: Reading | None = None,
) -> Source:
    """Load a split of a data set: "train" or "test", or one more that an own data set has.

    Files of built-in sets are searched for in `data_dir`, in the folder that the environment
    variable TALLYGRAD_DATA names, and in the cache folder, in this order. Missing files are
    downloaded to the cache, unless `download` is false; `mirrors` are base URLs that replace the
    built-in ones. `progress` shows a bar if stderr is a terminal. `seed` only affects "digits",
    which needs no files. `reading` has the options of own data sets.

    Raises DataError for an unknown name or split, and for missing or damaged files.
    """
    if is_own(name):
        splits = load_own(name, reading, progress)
        if split not in splits:
            raise DataError(f"split: expected one of {', '.join(splits)} of {name}, got {split!r}")
        return splits[split]
    if name not in names():
        raise DataError(f"--dataset: expected one of {', '.join(names())}, got {name!r}")
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    check_data_dir(data_dir)
    if name == "digits":
        return load_digits(split, seed)
    reader = mnist.load_mnist if name in mnist.FAMILIES else cifar.load_cifar
    return reader(name, split, data_dir, fetch=download, progress=progress, mirrors=mirrors)


def load_own(
    name: str | os.PathLike[str], reading: Reading | None = None, progress: bool = True
) -> dict[str, Source]:
    """Load all splits of a folder of images, a NumPy archive (.npz), an HDF5 file (.h5), or what
    code of the user makes (FILE.py:NAME): "train", "test" and perhaps "validation".

    Raises DataError, which names the file, for what does not fit.
    """
    reading = reading or Reading()
    opened = open_own(name, reading, progress)
    return finish(opened, reading) if isinstance(opened, Opened) else opened


def open_own(
    name: str | os.PathLike[str], reading: Reading, progress: bool = True, cached: bool = True
) -> Opened | dict[str, Source]:
    """Return what a folder, file or code holds: its parts, or sources that code has made."""
    opened = _open(str(name), reading, progress, cached)
    return fitted(opened, reading) if isinstance(opened, Opened) else opened


def _open(name: str, reading: Reading, progress: bool, cached: bool) -> Opened | dict[str, Source]:
    path = Path(name)
    suffix = path.suffix.lower()
    if names_code(name):
        return open_code(name, reading)
    if suffix == CODE:
        raise DataError(f"--dataset: expected {name}:NAME, a function in it, got {name}")
    if not path.exists():
        raise DataError(f"--dataset {path}: no such file or folder")
    if path.is_dir():
        return open_folder(path, reading, progress, cached)
    if suffix in HDF5:
        from .sets.hdf5 import open_hdf5  # h5py loads slowly

        return open_hdf5(path, reading)
    if suffix in ARCHIVES:
        return open_npz(path, reading)
    raise DataError(f"--dataset {path}: expected a folder, .npz, .h5 or .hdf5, got {path.name}")


def hold_out(dataset: Source, count: int, seed: int = 0) -> tuple[Source, Source]:
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
    return Subset(dataset, rest, dataset.split), Subset(dataset, validation, "validation")
