"""Clipping of gradients, with torch's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite

import numpy as np

from ... import context, random
from ...array import Array, array
from ...ops import clipping
from ...ops.elementwise import maximum
from ...ops.shape import converted
from ...ops.update import accumulate
from ...tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale gradients down where their norm, as of one vector, is above `max_norm`; return the
    norm, ().

    It has the same bits for any order and split of the parameters. ValueError for another norm than
    2 and inf, or a `max_norm` that is negative, RuntimeError for one that is not finite where
    `error_if_nonfinite`, and where gradients are those of a micro-batch."""
    _check_whole("clip_grad_norm_", "clip_norm")
    if norm_type not in (2, inf, "inf"):
        raise ValueError(f"clip_grad_norm_: expected norm_type 2 or inf, got {norm_type!r}")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: expected max_norm of at least 0, got {max_norm}")
    found = _gradients(parameters)
    if not found:
        return Tensor(array(np.float32(0)))
    with context.using(tape=None):
        norm = largest(found)
        if norm_type == 2:
            count = sum(g.spec.size for g in found)
            norm = clipping.norm_of(square_sums(found, norm, count))
        if error_if_nonfinite and not isfinite(norm.value):
            raise RuntimeError(f"clip_grad_norm_: expected a finite norm, got {norm.value}")
        for g in found:
            clipping.clip_to_norm(g, norm, most=float(max_norm))
        return Tensor(converted(norm, found[0].dtype))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit the elements of gradients to [-clip_value, clip_value]. ValueError for a negative
    one, RuntimeError where gradients are those of a micro-batch."""
    _check_whole("clip_grad_value_", "clip_value")
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: expected clip_value of at least 0, got {clip_value}")
    with context.using(tape=None):
        for g in _gradients(parameters):
            clipping.clip_to_value(g, most=float(clip_value))


def _check_whole(name: str, option: str) -> None:
    """RuntimeError where gradients are those of a micro-batch: clipped, ranks would differ."""
    if random.in_step():
        raise RuntimeError(
            f"{name}: expected gradients of a whole batch, got those of a micro-batch, within a "
            f"loop over a loader of distribute(); distribute(.., {option}=X) clips the batch's"
        )


def largest(gradients: Sequence[Array]) -> Array:
    """Return the largest absolute value of arrays, ()."""
    result = array(np.float64(0))
    for g in gradients:
        result = maximum(result, clipping.magnitude(g))
    return result


def square_sums(gradients: Sequence[Array], largest: Array, count: int) -> Array:
    """Return the exact sums of squares, (2,), of arrays that are some of `count` elements whose
    largest absolute value is given."""
    result = array(np.zeros(2))
    for g in gradients:
        accumulate(result, clipping.square_sums(g, largest, count=count))
    return result


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Array]:
    every = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad.data for p in every if p.grad is not None]
