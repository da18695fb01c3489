"""Ways to take an array apart or to reverse it, each made of a few primitive calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from ..primitive import Value
from .recurrent import unstack
from .reduce import axes_of
from .shape import axis_of, getslice, integers, permute


def split(x: Value, sizes: int | Sequence[int], dim: int) -> list[Any]:
    """Return parts along an axis: of one size (the last may be smaller), or of listed sizes.

    The parts are views. ValueError for a size below 1 and for listed sizes that do not add up."""
    axis = axis_of("split", dim, len(x.shape))
    length = x.shape[axis]
    lengths = integers((sizes,))
    if not isinstance(sizes, Iterable):
        if lengths[0] < 1:
            raise ValueError(f"split: expected a size of at least 1, got {lengths[0]}")
        lengths = tuple(min(lengths[0], length - i) for i in range(0, max(length, 1), lengths[0]))
    if sum(lengths) != length or min(lengths, default=0) < 0:
        raise ValueError(
            f"split: expected sizes that add up to {length} along axis {dim}, got {[*lengths]}"
        )
    whole = [(0, n, 1) for n in x.shape]
    bounds = [(*whole[:axis], (a, b, 1), *whole[axis + 1 :]) for a, b in _bounds(lengths)]
    return [getslice(x, slices=bound) for bound in bounds]


def _bounds(sizes: Sequence[int]) -> Any:
    return pairwise(accumulate(sizes, initial=0))


def chunk(x: Value, chunks: int, dim: int) -> list[Any]:
    """Return up to `chunks` parts of one size along an axis; the last may be smaller.

    ValueError for fewer than one chunk."""
    if chunks < 1:
        raise ValueError(f"chunk: expected at least 1 chunk, got {chunks}")
    axis = axis_of("chunk", dim, len(x.shape))
    return split(x, max(1, -(-x.shape[axis] // chunks)), axis)


def unbind(x: Value, dim: int) -> tuple[Any, ...]:
    """Return the parts along an axis, without that axis.

    It is one call with many results, so that the gradients of many steps of a sequence cost no more
    than the sequence itself."""
    axis = axis_of("unbind", dim, len(x.shape))
    order = (axis, *(i for i in range(len(x.shape)) if i != axis))
    if not x.shape[axis]:
        return ()
    parts = unstack(x.shape[axis])(permute(x, axes=order))
    return parts if isinstance(parts, tuple) else (parts,)


def flip(x: Value, dims: int | Sequence[int]) -> Any:
    """Return the elements in reverse order along axes: a view with negative strides."""
    axes = axes_of("flip", integers((dims,)), len(x.shape))
    bounds = [(n - 1, -1, -1) if i in axes and n else (0, n, 1) for i, n in enumerate(x.shape)]
    return getslice(x, slices=tuple(bounds))
