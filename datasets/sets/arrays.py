"""Which arrays of a file are the images and labels of which split.

Known are the names that people give them: Keras's `x_train`, MedMNIST's `train_images`, groups such
as `train/images`, and NumPy's `arr_0`. Other arrays are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..reading import split_of
from ..source import DataError

IMAGES = ("x", "images", "image", "imgs", "img", "data", "features", "inputs", "input")
LABELS = ("y", "labels", "label", "targets", "target", "answers")
CLASSES = ("classes", "class_names", "label_names")
# Of np.savez without names, by the number of arrays.
UNNAMED = {
    2: (("", "images"), ("", "labels")),
    4: (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels")),
}


def find_arrays(where: str, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return for each split, "" being none, the names of its images and labels.

    Raises DataError where there are none, where a split has only one of the two, and where two
    arrays could be meant.
    """
    names = [name for name in names if name.lower() not in CLASSES]
    found: dict[tuple[str, str], str] = {}
    unnamed = sorted(name for name in names if re.fullmatch(r"arr_\d", name))
    roles = dict(zip(unnamed, UNNAMED.get(len(unnamed), ()), strict=False))
    for name in names:
        role = roles.get(name) or _role(name)
        if role is None:
            continue
        if role in found:
            raise DataError(
                f"{where}: expected one array of {' '.join(filter(None, role))}, got {found[role]} "
                f"and {name}"
            )
        found[role] = name
    splits = list(dict.fromkeys(split for split, _ in found))
    for split in splits:
        for kind, other in (("images", "labels"), ("labels", "images")):
            if (split, kind) not in found:
                raise DataError(f"{where}: expected {kind} beside {found[split, other]}, got none "
                                f"among {', '.join(names)}")  # fmt: skip
    if not splits:
        raise DataError(
            f"{where}: expected arrays such as x_train and y_train, train_images and train_labels, "
            f"or images and labels, got {', '.join(names) or 'none'}"
        )
    return {split: (found[split, "images"], found[split, "labels"]) for split in splits}


def _role(name: str) -> tuple[str, str] | None:
    """Return the split and the kind that a name tells, None where it tells no kind."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    words = [word.lower() for word in re.split(r"[\W_]+", spaced) if word]
    kinds = [
        kind
        for word in words
        for kind, known in (("images", IMAGES), ("labels", LABELS))
        if word in known
    ]
    splits = [split for word in words if (split := split_of(word))]
    others = [w for w in words if w not in (*IMAGES, *LABELS) and not split_of(w)]
    if len(set(kinds)) != 1 or len(set(splits)) > 1 or others:
        return None
    return next(iter(splits), ""), kinds[0]
