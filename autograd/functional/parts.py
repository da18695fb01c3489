"""Functions that take tensors apart."""

from __future__ import annotations

from collections.abc import Sequence

from ..ops.recurrent import unstack
from ..ops.reduce import axes_of
from ..tensor import Tensor
from .arrange import split


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the parts along an axis, without it: one call, so that the gradients of many steps of
    a sequence cost no more than the sequence."""
    (axis,) = axes_of(dim, input.ndim)
    order = (axis, *(i for i in range(input.ndim) if i != axis))
    if not input.shape[axis]:
        return ()
    parts = unstack(input.shape[axis])(input.permute(*order))
    return parts if isinstance(parts, tuple) else (parts,)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """Return up to so many parts of one size along an axis; the last may be smaller. ValueError for
    fewer than one."""
    if chunks < 1:
        raise ValueError(f"chunk: {chunks} parts of shape {input.shape}")
    (axis,) = axes_of(dim, input.ndim)
    return split(input, max(1, -(-input.shape[axis] // chunks)), axis)


def flip(input: Tensor, dims: int | Sequence[int]) -> Tensor:
    """Return the elements in reverse order along axes."""
    axes = axes_of(dims if isinstance(dims, int) else tuple(dims), input.ndim)
    return input[tuple(slice(None, None, -1 if i in axes else 1) for i in range(input.ndim))]
