"""Functions that choose, order and rearrange elements, with torch's names and argument order.

Most are methods of Tensor too."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from ..array import NDArray, array
from ..methods.selecting import Ordered
from ..ops.gather import embedding as rows
from ..ops.gather import one_hot as hot
from ..tensor import Tensor
from .arrange import where

__all__ = [
    "argsort",
    "bincount",
    "embedding",
    "embedding_bag",
    "gather",
    "index_add",
    "index_select",
    "masked_fill",
    "masked_select",
    "moveaxis",
    "movedim",
    "nonzero",
    "one_hot",
    "repeat_interleave",
    "roll",
    "scatter",
    "scatter_add",
    "sort",
    "swapaxes",
    "swapdims",
    "tile",
    "topk",
    "unflatten",
    "unique",
]


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return the rows of the weight (rows, C) that `input`, integers of any shape, names: (.., C).

    The row `padding_idx` has no gradient. The gradient's additions are those of the rows that are
    named. IndexError for a row out of range."""
    count = weight.shape[0] if weight.ndim else 0
    padding = _padding("embedding", padding_idx, count)
    y: Tensor = rows(weight, input, padding=-1 if padding is None else padding)
    return y


def _padding(name: str, padding_idx: int | None, count: int) -> int | None:
    """Return `padding_idx` counted from the front of `count` rows."""
    if padding_idx is None:
        return None
    if not -count <= padding_idx < count:
        raise ValueError(f"{name}: expected padding_idx in [{-count}, {count}), got {padding_idx}")
    return padding_idx % count


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    *,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the "sum", "mean" or "max" of the rows of the weight (rows, C) that each bag names:
    (bags, C).

    Bags are the rows of `input`, or of its one axis the parts that begin at `offsets` (the last of
    which is its end with `include_last_offset`); they are padded to the longest. Elements equal to
    `padding_idx` do not count; nothing gives 0. `per_sample_weights`, of the input's shape, are
    factors of a sum. ValueError for other modes and where the arguments do not fit."""
    factors = per_sample_weights
    if mode not in ("sum", "mean", "max") or (factors is not None and mode != "sum"):
        raise ValueError(
            "embedding_bag: expected mode 'sum', or 'mean' or 'max' without per_sample_weights, "
            f"got {mode!r}"
        )
    if input.ndim != (2 if offsets is None else 1):
        raise ValueError(
            "embedding_bag: expected an input of 2 axes, or of 1 and offsets, got shape "
            f"{input.shape}"
        )
    if factors is not None and factors.shape != input.shape:
        raise ValueError(
            f"embedding_bag: expected per_sample_weights of shape {input.shape}, got "
            f"{factors.shape}"
        )
    padding = _padding("embedding_bag", padding_idx, len(weight))
    present = None if padding is None else input != padding
    if offsets is not None:
        table, filled = _bags(offsets, len(input), include_last_offset)
        input, factors = input[table], None if factors is None else factors[table]
        present = filled if present is None else present[table] & filled
    y = embedding(input, weight)
    if factors is not None:
        y = y * factors.unsqueeze(-1)
    if mode == "sum" or not input.numel():
        return y.sum(1) if present is None else where(present.unsqueeze(-1), y, 0.0).sum(1)
    if present is None:
        return y.mean(1) if mode == "mean" else y.max(1).values
    count = present.sum(1, keepdim=True)
    if mode == "mean":
        return where(present.unsqueeze(-1), y, 0.0).sum(1) / count.clamp_min(1).astype(y.dtype)
    largest = where(present.unsqueeze(-1), y, -inf).max(1).values
    return where(count > 0, largest, 0.0)


def _bags(offsets: Tensor, count: int, with_end: bool) -> tuple[NDArray, Tensor]:
    """Return the positions of the elements of bags (bags, longest), and whether there is one.

    ValueError for offsets that do not ascend from 0 to `count`."""
    starts = offsets.numpy()
    bounds = starts if with_end else np.append(starts, count)
    line = starts.ndim == 1 and bounds.size
    if not line or bounds[0] or bounds[-1] != count or (np.diff(bounds) < 0).any():
        raise ValueError(
            f"embedding_bag: expected offsets that ascend from 0 to {count}, got {starts.tolist()}"
        )
    lengths = np.diff(bounds)[:, None]
    steps = np.arange(lengths.max(initial=0))
    filled = steps < lengths
    return np.where(filled, bounds[:-1, None] + steps, 0), Tensor(array(filled))


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return 1 at the position that each integer is along a new last axis, 0 elsewhere, as int64.

    `num_classes` is its extent, one more than the largest integer for -1. IndexError for an integer
    out of range, TypeError for other types."""
    if num_classes < 0:
        num_classes = int(tensor.numpy().max(initial=-1)) + 1
    y: Tensor = hot(tensor, classes=num_classes)
    return y


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return input[index[i, j, ..], j, ..] for dim 0, likewise for others.

    The result has the index's shape. ValueError for an index that is larger along another axis,
    IndexError for a position out of range."""
    return input.gather(dim, index)


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Tensor | float | None = None, *,
    value: float | None = None,
) -> Tensor:  # fmt: skip
    """Return the input with elements of `src`, or one number, also as `value`, at positions along
    an axis: the reverse of `gather`."""
    return input.scatter(dim, index, src, value=value)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return the input with elements of `src` added at positions along an axis."""
    return input.scatter_add(dim, index, src)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the parts at positions (one axis) along an axis."""
    return input.index_select(dim, index)


def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """Return the input with parts of `source`, times alpha, added at positions along an axis."""
    return input.index_add(dim, index, source, alpha)


def masked_fill(input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """Return `value` where the mask holds, else the elements; both broadcast."""
    return input.masked_fill(mask, value)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """Return the elements where the mask holds, in one row; both broadcast.

    The shape depends on numbers, so `trace` cannot record it."""
    return input.masked_select(mask)


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Return the positions of the elements in order along an axis; see `sort`."""
    return input.argsort(dim, descending, stable)


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Ordered:
    """Return the elements in order along an axis, and their positions.

    Equal ones keep their order; NaN counts as the largest."""
    return input.sort(dim, descending, stable)


def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Ordered:
    """Return the k largest or smallest elements along an axis, in order, and their positions.

    Of equal ones the first count. ValueError for more than there are."""
    return input.topk(k, dim, largest, sorted)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
    """Return the positions of elements that are not 0, (count, axes), row by row; with `as_tuple` a
    tensor for each axis."""
    return input.nonzero(as_tuple)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the values that occur, in ascending order, or the parts along an axis.

    With `return_inverse` also where each element's value, or each part, is in them, with
    `return_counts` how often each occurs."""
    return input.unique(sorted, return_inverse, return_counts, dim)


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Return how often each number from 0 on occurs in a row of integers, or the sum of its
    weights."""
    return input.bincount(weights, minlength)


def roll(
    input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None
) -> Tensor:
    """Return the elements moved along axes; those that leave at one end come in at the other."""
    return input.roll(shifts, dims)


def repeat_interleave(
    input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Return each part along an axis several times in a row, by default of the flattened tensor."""
    return input.repeat_interleave(repeats, dim, output_size=output_size)


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the tensor several times along its last axes."""
    return input.tile(dims)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Return the tensor with one axis as several, of which one extent may be -1."""
    return input.unflatten(dim, sizes)


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Return the tensor with axes moved to other places; the others keep their order."""
    return input.movedim(source, destination)


moveaxis = movedim


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """Return the tensor with two axes exchanged."""
    return input.swapaxes(axis0, axis1)


swapdims = swapaxes
