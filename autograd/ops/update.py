"""Primitives that change arrays in place: stored numbers, running statistics, the optimizer's step.

Their `writes` name the arguments that change; they have no result and no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import primitive
from .shape import indexed


def fits(slot: Spec, *others: Spec, **attrs: object) -> tuple[Spec, ...]:
    """Shape rule of updates, which have no result. ValueError for an operand of another shape."""
    for other in others:
        if other.shape not in ((), slot.shape):
            raise ValueError(f"update: expected an array of shape {slot.shape}, got {other.shape}")
    return ()


@primitive(infer=fits, cost=lambda y, slot, g: Cost(bytes_read=g.nbytes), writes=(0,))
def store(slot: NDArray, g: NDArray) -> None:
    """Write g to slot, broadcast to its shape."""
    slot[...] = g


def _placed(slot: Spec, g: Spec, *indices: Spec, axis: int) -> tuple[Spec, ...]:
    """Shape rule of put."""
    return fits(indexed(slot, *indices, axis=axis), g)


def _placing_cost(y: None, slot: Spec, g: Spec, *indices: Spec, axis: int) -> Cost:
    """Cost rule of put: values and indices are read, only the indexed elements are written."""
    written = indexed(slot, *indices, axis=axis).nbytes
    return Cost(bytes_read=g.nbytes + sum(i.nbytes for i in indices), bytes_written=written)


@primitive(infer=_placed, cost=_placing_cost, writes=(0,))
def put(slot: NDArray, g: NDArray, *indices: NDArray, axis: int) -> None:
    """Write g to slot at the positions that integer arrays give for neighbouring axes from `axis`
    on.

    Of several values for one position the last one stays. IndexError for a position out of range.
    """
    key: Any = (slice(None),) * axis + indices
    slot[key] = g


@primitive(infer=fits, cost=lambda y, slot, g: Cost(add=slot.size), writes=(0,))
def accumulate(slot: NDArray, g: NDArray) -> None:
    """Add g to slot."""
    np.add(slot, g, out=slot)


@primitive(
    infer=fits,
    cost=lambda y, slot, x, rate: Cost(add=2 * slot.size, mul=slot.size),
    writes=(0,),
)
def average(slot: NDArray, x: NDArray, rate: NDArray) -> None:
    """Move a slot towards x: slot = slot + rate (x - slot), with a 0-d rate."""
    slot += rate.astype(slot.dtype) * (x - slot)


@primitive(
    infer=fits,
    cost=lambda y, mean, *others, unbiased: Cost(
        add=4 * mean.size, mul=(2 + (unbiased != 1)) * mean.size
    ),
    writes=(0, 1),
)
def running_average(
    mean: NDArray, var: NDArray, new_mean: NDArray, new_var: NDArray, rate: NDArray, *,
    unbiased: float,
) -> None:  # fmt: skip
    """Move running statistics towards those of a batch.

    mean = mean + rate (new_mean - mean), and var likewise towards `unbiased` new_var: exponentially
    weighted averages; the rate is a 0-d array, so that it may change from step to step."""
    mean += (rate * (new_mean - mean)).astype(mean.dtype, copy=False)
    new_var = new_var * new_var.dtype.type(unbiased)
    var += (rate * (new_var - var)).astype(var.dtype, copy=False)


def _sgd_cost(
    y: None, w: Spec, g: Spec, v: Spec, narrow: Spec, lr: Spec, *, momentum: float,
    dampening: float, weight_decay: float, nesterov: bool,
) -> Cost:  # fmt: skip
    """Cost rule of sgd: each option that is in use adds a multiplication, an addition and its
    reads."""
    pairs = 1 + (weight_decay != 0) + (momentum != 0) + nesterov
    words = 2 + (momentum != 0)
    return Cost(
        add=pairs * w.size,
        mul=(pairs + (momentum != 0 and dampening != 0)) * w.size,
        bytes_read=words * w.nbytes + lr.nbytes,
        bytes_written=(words - 1) * w.nbytes + copied_bytes(narrow),
    )


def copied_bytes(narrow: Spec) -> int:
    """Return the bytes of a narrow copy of weights that an update writes."""
    return narrow.nbytes if narrow.shape else 0


@primitive(infer=fits, cost=_sgd_cost, writes=(0, 2, 3))
def sgd(
    w: NDArray,
    g: NDArray,
    v: NDArray,
    narrow: NDArray,
    lr: NDArray,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Take one step of stochastic gradient descent (Sutskever et al. 2013, in torch's form).

        d = g + weight_decay w
        v = momentum v + (1 - dampening) d
        d = d + momentum v  with nesterov, else d = v
        w = w - lr d

    Without momentum, d is used as it is; v is left alone and may be of any size. The narrow copy
    gets the new weights, rounded; it is left alone if it is 0-d. lr is a 0-d array, so that it may
    change from step to step."""
    d = g + w.dtype.type(weight_decay) * w if weight_decay else g
    if momentum:
        v *= v.dtype.type(momentum)
        v += d if not dampening else v.dtype.type(1 - dampening) * d
        d = d + v.dtype.type(momentum) * v if nesterov else v
    w -= lr.astype(w.dtype) * d
    if narrow.shape:
        narrow[...] = w
