"""A list of samples becomes a batch, by torch's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..autograd import Tensor, from_numpy, stack, tensor
from .source import DataError

KINDS = "tensors, arrays, numbers, texts, or tuples, lists and dictionaries of them"
ARRAYS = (Tensor, np.ndarray, np.generic)
NUMBERS = (bool, int, float)


def default_collate(batch: Sequence[Any]) -> Any:
    """Return samples as one batch, with torch's types: tensors, arrays and numbers become a tensor
    with an axis more in front, tuples and lists a list of batches, dictionaries a dictionary of
    them, and texts a sequence. DataError for samples that do not fit one another."""
    return collate(batch, range(len(batch)))


def collate(values: Sequence[Any], ids: Sequence[int], where: str = "") -> Any:
    """Do so for samples of these numbers, or the part `where` of each."""
    if not len(values):
        raise DataError("default_collate: expected at least one sample, got none")
    first = values[0]
    if isinstance(first, ARRAYS):
        return _stacked(values, ids, where)
    if isinstance(first, NUMBERS):
        _check_alike("", _kinds("a number", values, NUMBERS), ids, where)
        return tensor([*values], np.float64 if isinstance(first, float) else None)
    if isinstance(first, str | bytes):
        return values
    if isinstance(first, Mapping):
        keys = [sorted(map(str, x)) if isinstance(x, Mapping) else type(x).__name__ for x in values]
        _check_alike("keys ", keys, ids, where)
        return {k: collate([x[k] for x in values], ids, f"{where}[{k!r}]") for k in first}
    if isinstance(first, Sequence):
        lengths = [len(x) if isinstance(x, Sequence) else type(x).__name__ for x in values]
        _check_alike("length ", lengths, ids, where)
        columns = [
            collate(column, ids, f"{where}[{i}]")
            for i, column in enumerate(zip(*values, strict=True))
        ]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise _unfit(ids[0], where, KINDS, f"{type(first).__name__}; give a collate_fn")


def _stacked(values: Sequence[Any], ids: Sequence[int], where: str) -> Tensor:
    """Return arrays of one shape as one tensor; those with a gradient keep their history."""
    _check_alike("", _kinds("an array", values, ARRAYS), ids, where)
    _check_alike("shape ", [x.shape for x in values], ids, where)
    if any(isinstance(x, Tensor) and x.requires_grad for x in values):
        return stack([x if isinstance(x, Tensor) else tensor(x) for x in values])
    rows = np.stack([x.numpy() if isinstance(x, Tensor) else x for x in values])
    if rows.dtype.kind in "OSUmM":
        raise _unfit(ids[0], where, KINDS, f"an array of {rows.dtype}; give a collate_fn")
    return from_numpy(rows)


def _kinds(what: str, values: Sequence[Any], kinds: tuple[type, ...]) -> list[str]:
    return [what if isinstance(x, kinds) else type(x).__name__ for x in values]


def _check_alike(what: str, facts: Sequence[object], ids: Sequence[int], where: str) -> None:
    for i, fact in zip(ids, facts, strict=True):
        if fact != facts[0]:
            raise _unfit(
                i, where, f"{what}{facts[0]}, as of sample {ids[0]}", f"{fact}; give a collate_fn"
            )


def _unfit(index: int, where: str, expected: str, got: str) -> DataError:
    return DataError(f"DataLoader: sample {index}{where}: expected {expected}, got {got}")
