"""Functions that join, cut and move tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..operators import Operand
from ..ops import elementwise as el
from ..ops import shape as sh
from ..tensor import Tensor


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors one behind the other along an existing axis."""
    if not tensors:
        raise ValueError("cat: no tensors given")
    return sh.concatenate(*tensors, axis=dim % max(tensors[0].ndim, 1))


concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors of one shape one behind the other along a new axis."""
    return cat([t.unsqueeze(dim) for t in tensors], dim % (tensors[0].ndim + 1) if tensors else 0)


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> list[Tensor]:
    """Return parts along an axis: of one size (the last may be smaller), or of given sizes."""
    length = tensor.shape[dim]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        sizes = [min(step, length - i) for i in range(0, length, step)]
    else:
        sizes = list(split_size_or_sections)
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {sizes} add up to {sum(sizes)}, axis {dim} has {length}")
    ends = np.cumsum([0, *sizes])
    before = (slice(None),) * (dim % tensor.ndim)
    return [tensor[(*before, slice(int(a), int(b)))] for a, b in pairwise(ends)]


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Return the input with a border. `pad` counts from the last axis: (left, right, top, bottom,
    ..). Modes: "constant"."""
    if mode != "constant":
        raise ValueError(f"pad: mode {mode!r} is unknown; there is 'constant'")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: {len(pad)} widths for {input.ndim} axes; give pairs")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    widths = ((0, 0),) * (input.ndim - len(pairs)) + tuple(pairs)
    return sh.pad(input, widths=widths, value=float(value))


def where(condition: Tensor, input: Operand, other: Operand) -> Tensor:
    """Return elements of input where the condition holds, else of other."""
    if not isinstance(input, Tensor) and isinstance(other, Tensor):
        return el.where(condition, other.dtype.type(input), other)
    if isinstance(input, Tensor) and not isinstance(other, Tensor):
        return el.where(condition, input, input.dtype.type(other))
    return el.where(condition, input, other)


def maximum(input: Operand, other: Operand) -> Tensor:
    """Return the larger of each pair."""
    return el.maximum(input, other)


def minimum(input: Operand, other: Operand) -> Tensor:
    """Return the smaller of each pair."""
    return el.minimum(input, other)


def exp(input: Tensor) -> Tensor:
    """Return e to the power of each element."""
    return el.exp(input)


def log(input: Tensor) -> Tensor:
    """Return natural logarithms."""
    return el.log(input)


def sqrt(input: Tensor) -> Tensor:
    """Return square roots."""
    return el.sqrt(input)


def sin(input: Tensor) -> Tensor:
    """Return sines, of radians."""
    return el.sin(input)


def cos(input: Tensor) -> Tensor:
    """Return cosines, of radians."""
    return el.cos(input)
