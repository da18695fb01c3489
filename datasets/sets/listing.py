"""Own data sets as folders of images: one folder a class, or a text file of labels.

`train/`, `test/` and `val/` are splits, under these or similar names, in any of the first levels;
without them, the folder itself holds the classes. Images lie in the folder of their class, at any
depth. A split without such folders has its labels in a text file: `NAME LABEL` lines, as the files
of ImageNet, Tiny ImageNet and Kaggle's competitions are, or one number a line in the order of the
images, whose meaning `map_clsloc.txt` or `synsets.txt` tells.
"""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..formats.pictures import is_picture
from ..own import check_names
from ..reading import WORDS, split_of
from ..source import DataError

DEPTH = 4  # levels below the folder at which splits are searched for
MOST_FOLDERS = 2000  # that are searched for splits
MOST_TEXT = 1 << 26  # bytes of a file of labels
LABEL_WORDS = ("label", "annotation", "ground_truth", "solution", "classes")
HIDDEN = (".", "__MACOSX")
SYNSETS = ("map_clsloc.txt", "synsets.txt")


@dataclass(frozen=True)
class Listing:
    """Images of one split with the name of the class of each, in order."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[str, ...]


def list_folder(root: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """Return the images of each split in a folder, "" being none, and the names of the classes.

    Raises DataError, which names the folder or file, for empty classes, images without a label,
    labels of unknown classes, and a folder without images.
    """
    places = _find_splits(root)
    classes = _classes_of(places.get("train") or places[""] if places else root)
    listings = {split: _list_split(split, place, root, classes) for split, place in places.items()}
    kept = {split: listing for split, listing in listings.items() if listing}
    if not kept:
        raise DataError(
            f"{root}: expected folders of images, one a class, in train/ and test/ or without, got "
            f"{', '.join(sorted(os.listdir(root))[:5]) or 'an empty folder'}"
        )
    names = classes or sorted({label for listing in kept.values() for label in listing.labels})
    check_names(str(root), names)
    return kept, tuple(names)


def _find_splits(root: Path) -> dict[str, Path]:
    """Return the folders of the splits: children of the first folder, level by level, that has one
    named as a training set; else the folder itself, or its only child that has several."""
    queue = deque([(root, 0)])
    searched = 0
    while queue and searched < MOST_FOLDERS:
        folder, depth = queue.popleft()
        searched += 1
        children = _folders(folder)
        splits = _named_splits(folder, children)
        if "train" in splits:
            return splits
        if depth < DEPTH:
            queue.extend((child, depth + 1) for child in children)
    while len(children := _folders(root)) == 1 and not _pictures(children[0]):
        root = children[0]
    return {"": root}


def _named_splits(folder: Path, children: list[Path]) -> dict[str, Path]:
    """Return the children that are named as splits; none if they are classes of such names, as
    other folders of images beside them tell."""
    flat = [child for child in children if _pictures(child)]
    if {split_of(child.name) for child in flat} > {""}:
        return {}
    splits: dict[str, Path] = {}
    for child in children:
        split = split_of(child.name)
        if split in splits:
            raise DataError(f"{folder}: expected one folder of the split {split}, got "
                            f"{splits[split].name} and {child.name}")  # fmt: skip
        if split:
            splits[split] = child
    return splits


def _classes_of(place: Path) -> list[str]:
    """Return the names of the class folders, in order; none where images lie flat."""
    return [] if _pictures(place) else [child.name for child in _folders(place) if _is_class(child)]


def _is_class(folder: Path) -> bool:
    """A single folder `images` is no class: Tiny ImageNet's val/images."""
    return folder.name.lower() not in ("images", "annotations", "boxes")


def _list_split(split: str, place: Path, root: Path, classes: list[str]) -> Listing | None:
    """Return the images of a split; None for a test set without labels, which cannot be used."""
    folders = [] if _pictures(place) else [one for one in _folders(place) if _is_class(one)]
    if folders:
        return _list_classes(place, folders, classes)
    files = sorted(_deep_pictures(place))
    if not files:
        return None
    labels = _find_labels(split, place, root, files, classes)
    return None if labels is None else Listing(place, tuple(files), labels)


def _list_classes(place: Path, folders: list[Path], classes: list[str]) -> Listing:
    files: list[Path] = []
    labels: list[str] = []
    for folder in folders:
        if folder.name not in classes:
            raise DataError(f"{folder}: expected one of the {len(classes)} classes of the training "
                            f"set, such as {classes[0]!r}, got {folder.name!r}")  # fmt: skip
        mine = sorted(_deep_pictures(folder))
        if not mine:
            raise DataError(f"{folder}: expected images of the class {folder.name!r}, got none")
        files += mine
        labels += [folder.name] * len(mine)
    return Listing(place, tuple(files), tuple(labels))


def _find_labels(
    split: str, place: Path, root: Path, files: list[Path], classes: list[str]
) -> tuple[str, ...] | None:
    """Return the label of each file from the nearest text file that has them all; None where a
    test set has no such file."""
    stems, got = [file.stem for file in files], "neither"
    for text in _label_files(split, place, root):
        rows = _read_rows(text)
        named = {Path(row[0]).stem: row[1] for row in rows if len(row) > 1 and row[1]}
        if all(stem in named for stem in stems):
            return _as_classes(text, files, [named[stem].split()[0] for stem in stems], classes)
        if not named.keys().isdisjoint(stems):
            lacking = next(file for file in files if file.stem not in named)
            got = f"none of {lacking.name} in {text}"
        numbers = [row[0] for row in rows]
        if len(numbers) == len(files) and all(len(row) == 1 for row in rows):
            return _by_synset(text, files, numbers, _synsets(place, root), classes)
    if split == "test":
        return None
    raise DataError(
        f"{place}: expected a folder a class, or a text file with the labels of its {len(files)} "
        f"images, got {got}"
    )


def _around(place: Path, root: Path) -> list[Path]:
    """Return a folder and those above it up to the root, each with the kits of tools in it."""
    folders = [place, *place.parents[: len(place.parts) - len(root.parts)]]
    kits = [kit for folder in folders for kit in _folders(folder) if "devkit" in kit.name.lower()]
    return [*folders, *kits, *(kit / "data" for kit in kits if (kit / "data").is_dir())]


def _label_files(split: str, place: Path, root: Path) -> Iterator[Path]:
    """Yield the text files that may hold a split's labels: in its folder, then above it."""
    for folder in _around(place, root):
        for entry in sorted(folder.iterdir()):
            words = (*WORDS.get(split, ()), *LABEL_WORDS)
            told = folder == place or any(w in entry.stem.lower() for w in words if len(w) > 2)
            plain = entry.suffix.lower() in (".txt", ".csv", ".tsv") and entry.is_file()
            if told and plain and entry.name not in SYNSETS:
                yield entry


def _read_rows(text: Path) -> list[list[str]]:
    """Return the lines of a file, split at commas, tabs or the first space."""
    try:
        if text.stat().st_size > MOST_TEXT:
            size = text.stat().st_size
            raise DataError(f"{text}: expected at most {MOST_TEXT} bytes of labels, got {size}")
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{text}: {error.strerror or error}") from error
    lines = [line for line in lines if line.strip()]
    if text.suffix.lower() == ".csv":
        return [[cell.strip() for cell in row] for row in csv.reader(lines)]
    return [line.strip().split(None, 2)[:2] for line in lines]


def _as_classes(
    text: Path, files: list[Path], labels: list[str], classes: list[str]
) -> tuple[str, ...]:
    """Return the labels of files as names of classes. Numbers count the sorted class folders from
    0."""
    known = set(classes)
    if not classes or known.issuperset(labels):
        return tuple(labels)
    expected = f"one of {len(classes)} classes, such as {classes[0]!r}"
    if all(label.isdecimal() for label in labels):
        known = set(map(str, range(len(classes))))
        labels = [str(int(label)) for label in labels]
        expected = f"0 to {len(classes) - 1}"
    wrong = next((pair for pair in zip(files, labels, strict=True) if pair[1] not in known), None)
    if wrong is not None:
        raise DataError(f"{text}: label of {wrong[0].name}: expected {expected}, got {wrong[1]!r}")
    return tuple(classes[int(label)] for label in labels)


def _by_synset(
    text: Path, files: list[Path], numbers: list[str], synsets: Mapping[str, str],
    classes: list[str],
) -> tuple[str, ...]:  # fmt: skip
    if not synsets:
        raise DataError(
            f"{text}: expected {' or '.join(SYNSETS)} beside it, which says what class each number "
            "from 1 on stands for, got neither"
        )
    pairs = zip(files, numbers, strict=True)
    wrong = next((pair for pair in pairs if synsets.get(pair[1]) not in classes), None)
    if wrong is not None:
        file, number = wrong
        raise DataError(
            f"{text}: label of {file.name}: expected a number of one of {len(classes)} classes, "
            f"got {number!r} ({synsets.get(number, 'unknown')})"
        )
    return tuple(synsets[number] for number in numbers)


def _synsets(place: Path, root: Path) -> dict[str, str]:
    """Return the class of each number: lines `CLASS NUMBER ...`, or a class a line from 1 on."""
    for path in (folder / name for folder in _around(place, root) for name in SYNSETS):
        if path.is_file():
            rows = _read_rows(path)
            if all(len(row) > 1 and row[1].isdecimal() for row in rows):
                return {row[1]: row[0] for row in rows}
            return {str(i): row[0] for i, row in enumerate(rows, 1)}
    return {}


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(HIDDEN))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from error
    return [folder / name for name in names]


def _pictures(folder: Path) -> bool:
    """Tell whether images lie directly in a folder."""
    with os.scandir(folder) as entries:
        return any(is_picture(entry.name) for entry in entries)


def _deep_pictures(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if is_picture(name))
