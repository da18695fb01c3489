"""Clipping of gradients, with torch's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite

import numpy as np

from ... import context, random
from ...array import Array, array
from ...dtypes import FLOAT32, FLOAT64
from ...functional.arrange import stack
from ...methods.reducing import norm as power_norm
from ...ops import clipping
from ...ops.elementwise import maximum
from ...ops.shape import converted
from ...ops.update import accumulate
from ...tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale gradients down where their norm, as of one vector, is above `max_norm`; return the
    norm, (). `foreach`, which chooses among torch's implementations, changes nothing.

    The norms 2 and inf have the same bits for any order and split of the parameters. ValueError for
    a `max_norm` that is negative, RuntimeError for a norm that is not finite where
    `error_if_nonfinite`, and where gradients are those of a micro-batch."""
    _check_whole("clip_grad_norm_", "clip_norm")
    _check_most("clip_grad_norm_", max_norm)
    found = _gradients(parameters)
    norm = _total_norm("clip_grad_norm_", found, norm_type, error_if_nonfinite)
    _clip(found, max_norm, norm)
    return Tensor(converted(norm, found[0].dtype if found else FLOAT32))


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of tensors, as of one vector, (). Errors as of `clip_grad_norm_`."""
    every = [tensors] if isinstance(tensors, Tensor) else tensors
    found = [t.array for t in every]
    norm = _total_norm("get_total_norm", found, norm_type, error_if_nonfinite)
    return Tensor(converted(norm, found[0].dtype if found else FLOAT32))


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale gradients down by a norm that is known, where that is above `max_norm`. Errors as of
    `clip_grad_norm_`."""
    _check_whole("clip_grads_with_norm_", "clip_norm")
    _check_most("clip_grads_with_norm_", max_norm)
    _clip(_gradients(parameters), max_norm, converted(total_norm.array, FLOAT64))


def _total_norm(name: str, found: Sequence[Array], norm_type: float | str, finite: bool) -> Array:
    p = float(norm_type)
    with context.using(tape=None):
        norm = largest(found)
        if p == 2:
            norm = clipping.norm_of(square_sums(found, norm, sum(g.spec.size for g in found)))
        elif p != inf and found:
            each = [power_norm(Tensor(converted(g, FLOAT64)), p) for g in found]
            norm = power_norm(stack(each), p).array
        if finite and not isfinite(norm.value):
            raise RuntimeError(f"{name}: expected a finite norm, got {norm.value}")
    return norm


def _clip(gradients: Iterable[Array], most: float, norm: Array) -> None:
    with context.using(tape=None):
        for g in gradients:
            clipping.clip_to_norm(g, norm, most=float(most))


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
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


def _check_most(name: str, max_norm: float) -> None:
    if not max_norm >= 0:
        raise ValueError(f"{name}: expected max_norm of at least 0, got {max_norm}")


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
    return [p.grad.array for p in every if p.grad is not None]
