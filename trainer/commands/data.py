"""`tallygrad data`: pack a data set into one HDF5 file, show what is in one, and check all of it.

NumPy and h5py load inside functions only, so that `--help` loads neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CHOICES, TrainConfig, flag, gather
from ..cost.report import Column, name_column, text_table
from ..errors import UserError, show

if TYPE_CHECKING:
    from ...datasets import Opened

DESCRIPTION = """Pack a data set into one HDF5 file whose samples can be read in any order, show
what a data set holds, or read all of it and tell what is wrong."""
LESS_MEMORY = "free some memory"
ACTIONS = ("pack", "info", "check")
COMPRESSIONS = ("none", "gzip", "lz4", "zstd", "blosc")
READING = ("image_size", "image_fit", "image_colors")  # options of train that `pack` has too
COLUMNS = (
    name_column("split"), Column("images", 2), Column("shape", 2), Column("dtype", 2),
    Column("MB", 1), Column("stored MB", 1), Column("chunk", 1), Column("filters"),
    Column("samples a class", 1),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options of `tallygrad data`; `dest` is "" for all actions but pack."""

    action: str
    source: str
    dest: str
    data_dir: str
    compression: str
    force: bool
    image_size: str
    image_fit: str
    image_colors: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to do with which data, and how images are brought to one form."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("source", help="name of a data set, folder of images, .npz, .h5, or code")
    parser.add_argument("dest", nargs="?", default="", help="pack: the HDF5 file to write")
    parser.add_argument("--data-dir", default="", help="folder to search first for data files")
    parser.add_argument(
        "--compression", default="none", choices=COMPRESSIONS,
        help="pack: smaller, and slower to read; lz4, zstd and blosc need hdf5plugin "
        "(default: none)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="pack: replace DEST")
    options = {item.name: item for item in fields(TrainConfig)}
    for name in READING:
        choices = CHOICES.get(name)
        parser.add_argument(
            flag(name), default=options[name].default, choices=choices,
            help=options[name].metadata["help"],
        )  # fmt: skip


def run(values: Mapping[str, Any]) -> int:
    """Do what is asked; the status is 2 where `check` finds faults."""
    options = DataOptions(**values)
    if (options.action == "pack") != bool(options.dest):
        wanted = "DEST.h5" if options.action == "pack" else f"no second file with {options.action}"
        raise UserError(f"data {options.action}: expected {wanted}, got {options.dest or 'none'}")
    from ... import datasets

    if options.action == "pack":
        return _pack(options)
    opened = _open(options)
    if options.action == "info":
        show("\n".join(describe(opened)))
        return 0
    count = 0
    for line in datasets.faults(opened):
        show(line)
        count += 1
    images = sum(part.images.shape[0] for part in opened.parts.values())
    show(f"{opened.where}: {images:,} images read, {count or 'no'} fault{'s'[: count != 1]}")
    return 2 if count else 0


def _open(options: DataOptions) -> Opened:
    """Return what a data set holds; images of a folder are decoded when they are read."""
    from ... import datasets
    from .. import build
    from ..distributed.comm import SerialComm

    name = options.source
    chosen = {key: getattr(options, key) for key in READING}
    how = build.reading(TrainConfig(**gather(None, chosen), dataset=name))
    if not datasets.is_own(name):
        names = ("train", "test")
        return datasets.as_opened(
            name, build.load_splits(name, names, options.data_dir, SerialComm(), how)
        )
    opened = datasets.open_own(name, how, cached=False)
    return opened if isinstance(opened, datasets.Opened) else datasets.as_opened(name, opened)


def _pack(options: DataOptions) -> int:
    from ... import datasets

    dest = Path(options.dest)
    if dest.suffix.lower() not in datasets.HDF5:
        raise UserError(f"{dest}: expected a name that ends in .h5, got {dest.suffix or 'none'}")
    if dest.exists() and not options.force:
        raise UserError(f"{dest}: expected a new file, got one that exists; replace it by --force")
    datasets.pack(_open(options), dest, options.compression)
    packed = datasets.open_own(dest, datasets.Reading())
    assert isinstance(packed, datasets.Opened)
    show("\n".join(describe(packed)))
    return 0


def describe(opened: Opened) -> list[str]:
    """Return a table of the splits, and what is known of classes and normalisation."""
    from ...datasets import LARGE_CHUNK, chunk_of

    order = sorted(opened.parts, key=("", "train", "validation", "test").index)
    rows = [_row(key or "(none)", opened.parts[key]) for key in order]
    lines = [opened.where, "", *text_table(COLUMNS, rows), ""]
    names = opened.classes
    if names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        lines.append(f"classes  {len(names):,}: {shown}")
    if opened.moments:
        mean, std = (" ".join(f"{x:.4f}" for x in values[:8]) for values in opened.moments)
        lines += [f"mean     {mean}", f"std      {std}"]
    slow = [key for key, part in opened.parts.items() if chunk_of(part.images) > LARGE_CHUNK]
    if slow:
        lines.append(
            f"note     a shuffled sample of {', '.join(slow)} reads a whole chunk: "
            "`tallygrad data pack` makes smaller ones"
        )
    return lines


def _row(key: str, part: Any) -> list[str]:
    import numpy as np

    store, layout = part.images, getattr(part.images, "layout", {})
    count, height, width, channels = store.shape
    size = count * height * width * channels * store.dtype.itemsize
    _, members = np.unique(part.labels, axis=0, return_counts=True)
    least, most = members.min(initial=count), members.max(initial=0)
    return [
        key, f"{count:,}", f"{channels}x{height}x{width}", str(store.dtype), f"{size / 1e6:,.1f}",
        f"{layout['stored'] / 1e6:,.1f}" if layout else "-", str(layout.get("chunk") or "-"),
        ", ".join(layout.get("filters", ())) or "-",
        f"{least:,}" if least == most else f"{least:,} to {most:,}",
    ]  # fmt: skip
