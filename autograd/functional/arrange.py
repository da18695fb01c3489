"""Functions that join, pad and select tensors, and those of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np

from ..array import Array, array
from ..dtypes import FLOAT32, element_type
from ..methods.derived import maximum, minimum
from ..methods.operators import Operand
from ..ops import elementwise as el
from ..ops import shape as sh
from ..tensor import Tensor

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_tensors",
    "cat",
    "column_stack",
    "concat",
    "concatenate",
    "cos",
    "dstack",
    "exp",
    "hstack",
    "log",
    "maximum",
    "minimum",
    "pad",
    "sin",
    "sqrt",
    "stack",
    "vstack",
    "where",
]


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors joined one after the other along the existing axis `dim`.

    All other extents must be equal, but empty vectors are left out; types are promoted to the
    common one. ValueError for no tensors, an axis that does not exist or shapes that differ."""
    if not tensors:
        raise ValueError("cat: expected at least one tensor, got none")
    if any(t.shape == (0,) for t in tensors) and any(t.ndim > 1 for t in tensors):
        tensors = [t for t in tensors if t.shape != (0,)]  # such as a list that one begins with
    return sh.concatenate(*tensors, axis=sh.axis_of("cat", dim, tensors[0].ndim))


concatenate = concat = cat


def _lifted(tensors: Sequence[Tensor], ndim: int) -> list[Tensor]:
    """Return tensors with at least so many axes, vectors as rows."""
    return [t.reshape((1,) * (ndim - t.ndim) + t.shape) if t.ndim < ndim else t for t in tensors]


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along the second axis, or vectors along the first."""
    every = _lifted(tensors, 1)
    return cat(every, 0 if all(t.ndim == 1 for t in every) else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along the first axis, vectors as rows."""
    return cat(_lifted(tensors, 2))


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along the third axis, vectors as rows of it."""
    return cat([atleast_3d(t) for t in tensors], 2)


def atleast_1d(tensor: Tensor) -> Tensor:
    """Return a number as a vector, all else as it is."""
    return tensor if tensor.ndim else tensor.reshape(1)


def atleast_2d(tensor: Tensor) -> Tensor:
    """Return numbers and vectors as a row, all else as it is."""
    return tensor if tensor.ndim > 1 else tensor.reshape(1, -1)


def atleast_3d(tensor: Tensor) -> Tensor:
    """Return numbers, vectors and matrices with axes behind, and one in front of a vector; all else
    as it is."""
    return tensor if tensor.ndim > 2 else atleast_2d(tensor).unsqueeze(-1)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along the second axis, vectors as columns."""
    return cat([t.reshape(-1, 1) if t.ndim < 2 else t for t in tensors], 1)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors repeated to one shape, without a copy."""
    shape = np.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(t.expand(*shape) for t in tensors)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors of one shape joined along a new axis, which is axis `dim` of the result.

    ValueError for no tensors, an axis out of range or shapes that differ."""
    if not tensors:
        raise ValueError("stack: expected at least one tensor, got none")
    if len({t.shape for t in tensors}) > 1:
        raise ValueError(f"stack: expected equal shapes, got {[t.shape for t in tensors]}")
    axis = sh.axis_of("stack", dim, tensors[0].ndim + 1)
    return cat([t.unsqueeze(axis) for t in tensors], axis)


MODES = ("constant", "reflect", "replicate", "circular")


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Return the input with a border.

    `pad` counts from the last axis: (left, right, top, bottom, ..); a negative width crops, before
    any border is added. Modes:

    - "constant": the value (0 for None)
    - "reflect": elements mirrored at the outermost one, which is not repeated
    - "replicate": the outermost element
    - "circular": elements from the other end

    ValueError for a border that is wider than its axis allows, and for a value with another mode
    than "constant"."""
    if mode not in MODES:
        raise ValueError(f"pad: expected mode in {MODES}, got {mode!r}")
    if mode != "constant" and value:
        raise ValueError(f"pad: expected value=None in mode {mode!r}, got {value}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: expected up to {input.ndim} pairs of widths, got {len(pad)} widths")
    pads = sh.integers(pad)
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
    widths = ((0, 0),) * (input.ndim - len(pairs)) + tuple(pairs)
    for axis, (n, (a, b)) in enumerate(zip(input.shape, widths, strict=True)):
        if n + min(a, 0) + min(b, 0) < 0:
            raise ValueError(
                f"pad: expected to cut off at most {n} along axis {axis}, got widths {(a, b)}"
            )
    border = tuple((max(a, 0), max(b, 0)) for a, b in widths)
    y = _cropped(input, widths) if min(pads, default=0) < 0 else input
    if mode != "constant":
        return _repeated(y, border, mode)
    return sh.pad(y, widths=border, value=float(value or 0.0))


Widths: TypeAlias = tuple[tuple[int, int], ...]


def _cropped(x: Tensor, widths: Widths) -> Tensor:
    """Return x without what negative widths crop."""
    ends = zip(x.shape, widths, strict=True)
    return sh.getslice(x, slices=tuple((max(-a, 0), n - max(-b, 0), 1) for n, (a, b) in ends))


def _repeated(x: Tensor, widths: Widths, mode: str) -> Tensor:
    """Return x with a border of its own elements, axis by axis."""
    for axis, (n, (a, b)) in enumerate(zip(x.shape, widths, strict=True)):
        if not (a or b):
            continue
        most = {"reflect": n - 1, "circular": n}.get(mode, max(a, b) if n else 0)
        if max(a, b) > most:
            raise ValueError(
                f"pad: expected {mode} widths up to {most} along axis {axis} of {n}, got {(a, b)}"
            )
        at = np.arange(-a, n + b)
        if mode == "reflect":
            at = n - 1 - np.abs(n - 1 - np.abs(at))
        else:
            at = at % n if mode == "circular" else at.clip(0, n - 1)
        x = sh.index(x, array(at.astype(np.int64)), axis=axis)
    return x


@overload
def where(condition: Tensor) -> tuple[Tensor, ...]: ...
@overload
def where(condition: Tensor, input: Operand, other: Operand) -> Tensor: ...
def where(
    condition: Tensor, input: Operand | None = None, other: Operand | None = None
) -> Tensor | tuple[Tensor, ...]:
    """Return elements of `input` where the condition holds, else of `other`; all three broadcast.
    Without them, the positions where it holds, a tensor for each axis.

    A Python number takes the other operand's type where that can hold it; two numbers give bool,
    int64 or float32. ValueError for shapes that do not broadcast, TypeError for one of two."""
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if input is None or other is None:
        raise TypeError("where: expected input and other, or neither, got one of them")
    return el.where(condition, _number(input, other), _number(other, input))


def _number(value: Operand, beside: Operand) -> Operand | Array:
    """Return a Python number as an array, of the other operand's type if that can hold it.

    Anything else is returned as it is."""
    if not isinstance(value, bool | int | float):
        return value
    own = FLOAT32 if isinstance(value, float) else np.dtype(type(value))
    dtype = getattr(beside, "dtype", own)
    fits = element_type(dtype).rank >= element_type(own).rank
    return array(value, dtype if fits else own)


def exp(input: Tensor) -> Tensor:
    """Return e to the power of each element."""
    return input.exp()


def log(input: Tensor) -> Tensor:
    """Return natural logarithms: -inf at 0, not a number below."""
    return input.log()


def sqrt(input: Tensor) -> Tensor:
    """Return square roots; not a number below 0."""
    return input.sqrt()


def sin(input: Tensor) -> Tensor:
    """Return sines, of radians."""
    return input.sin()


def cos(input: Tensor) -> Tensor:
    """Return cosines, of radians."""
    return input.cos()
