"""Functions that take tensors apart or reverse them."""

from __future__ import annotations

from collections.abc import Sequence

from ..ops import parts as ops
from ..tensor import Tensor

__all__ = ["chunk", "flip", "split", "unbind"]


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> list[Tensor]:
    """Return parts along the axis `dim`: of one size (the last may be smaller), or of listed sizes.

    ValueError for a size below 1 and for listed sizes that do not add up."""
    return ops.split(tensor, split_size_or_sections, dim)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """Return up to `chunks` parts of one size along the axis `dim`; the last may be smaller.

    ValueError for fewer than one."""
    return ops.chunk(input, chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the parts along the axis `dim`, without that axis.

    It is one call, so that the gradients of many steps of a sequence cost no more than the
    sequence."""
    return ops.unbind(input, dim)


def flip(input: Tensor, dims: int | Sequence[int]) -> Tensor:
    """Return the elements in reverse order along the axes `dims`."""
    return ops.flip(input, dims)
