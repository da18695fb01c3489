"""Own data sets made by code of the user: `FILE.py:NAME` or `package.module:NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...trainer import user_code
from ..own import Opened, Split, check_names
from ..reading import Reading, split_of
from ..source import OF_SOURCE, DataError, Source, Subset, checked_labels
from ..store import ArrayStore, array_store

TESTS = ("train", "test")


def open_code(name: str, reading: Reading) -> Opened | dict[str, Source]:
    """Return the parts, or the sources by split, that the user's function makes. It is called
    `function(split)` for "train" and "test", or `function()` for a mapping of all splits or for
    data of none.

    A split is (images, labels), or (images, labels, names of the classes), or an object that
    implements `Source`. Raises DataError for other results, and for errors in the code.
    """
    function = user_code.load("--dataset", name).value
    with user_code.explained("--dataset"):
        made = _call(name, function)
    sources = {key: value for key, value in made.items() if not isinstance(value, tuple)}
    with user_code.explained("--dataset"):
        sources = {k: _checked(f"{name} {k}".strip(), k, value) for k, value in sources.items()}
    if sources:
        if missing := [key for key in TESTS if key not in sources]:
            raise DataError(f"--dataset {name}: expected sources of train and test, got none of "
                            f"{missing[0]}")  # fmt: skip
        return sources
    parts = {key: _part(f"{name} {key}".strip(), value, reading) for key, value in made.items()}
    classes = next((tuple(map(str, v[2])) for v in made.values() if len(v) == 3), ())
    check_names(name, classes)
    return Opened(name.rpartition(":")[2], name, parts, classes)


def _call(name: str, function: Any) -> dict[str, Any]:
    """Return what a function makes, by split; "" for data of no split."""
    if not callable(function):
        raise DataError(f"--dataset {name}: expected a function, got {type(function).__name__}")
    if inspect.signature(function).parameters:
        return {key: function(key) for key in TESTS}
    made = function()
    if not isinstance(made, Mapping):
        return {"": made}
    unknown = next((key for key in made if not split_of(str(key))), None)
    if unknown is not None or not made:
        got = "none" if unknown is None else repr(unknown)
        raise DataError(f"--dataset {name}: expected splits such as train and test, got {got}")
    return {split_of(str(key)): value for key, value in made.items()}


def _checked(where: str, split: str, value: Any) -> Source:
    """Return a source under the name of its split. DataError where it is none, and where labels or
    the first image do not fit what it says of itself."""
    absent = next((one for one in OF_SOURCE if not hasattr(value, one)), None)
    if absent is not None:
        raise DataError(
            f"--dataset {where}: expected (images, labels) or an object with {absent}, "
            f"got {type(value).__name__}"
        )
    source: Source = value
    channels, *size = source.input_shape
    first, labels = source.read(np.arange(1)), np.asarray(source.labels)
    wanted = (1, *size, channels)
    if first.shape != wanted or first.dtype not in (np.uint8, np.float32):
        raise DataError(f"--dataset {where}: read: expected uint8 or float32 {wanted}, "
                        f"got {first.dtype} {first.shape}")  # fmt: skip
    if labels.shape != (len(source),) or labels.dtype != np.int64:
        raise DataError(f"--dataset {where}: labels: expected int64 {(len(source),)}, "
                        f"got {labels.dtype} {labels.shape}")  # fmt: skip
    checked_labels(labels, len(source.classes), f"--dataset {where}")
    return source if source.split == split else Subset(source, np.arange(len(source)), split)


def _part(where: str, value: tuple[Any, ...], reading: Reading) -> Split:
    if len(value) not in (2, 3):
        raise DataError(f"--dataset {where}: expected (images, labels), got {len(value)} values")
    try:
        images, labels = (np.asarray(one) for one in value[:2])
    except ValueError as error:  # of lists of different lengths
        raise DataError(
            f"--dataset {where}: expected images and labels as arrays: {error}"
        ) from error
    store: ArrayStore = array_store(where, images, reading.size)
    return Split(store, labels)
