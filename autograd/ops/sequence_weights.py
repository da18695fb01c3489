"""Gradients that recurrent sequences share: those of inputs, weights and first states.

All follow from the gradients of the gates of all steps, so that an LSTM and an Elman network differ
only in how these are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..array import Array, NDArray, Spec
from ..dtypes import computed_in
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, Factor, factor, matrix_product, rows, transposed
from ..primitive import Value, primitive
from ..summation import sum_over
from .elementwise import add, fit
from .linear import matmul, swapped
from .recurrent import parts
from .shape import concatenate, getslice, reshape, zero

Flags: TypeAlias = tuple[bool, ...]


def walk(steps: int, backwards: bool) -> range:
    """Return the steps in the order in which they are taken."""
    return range(steps)[:: -1 if backwards else 1]


def known_gradients(*grads: Value | None) -> tuple[list[Value], Flags, bool]:
    """Return the gradients that are not None, flags that tell which they are, and whether to
    record.

    Gradients are recorded where any of them is a tensor."""
    known = [dy for dy in grads if dy is not None]
    return (
        known,
        tuple(dy is not None for dy in grads),
        any(type(dy) is not Array for dy in known),
    )


def at_places(grads: tuple[NDArray, ...], present: Flags) -> list[NDArray | None]:
    """Return gradients at their original positions, None for those that are absent."""
    some = iter(grads)
    return [next(some) if known else None for known in present]


def steps_of(x: Value | None, steps: int) -> tuple[Value | None, ...]:
    """Return the steps of x, or a None for each where x is None."""
    return (None,) * steps if x is None else parts(x)


def sum_of(like: Value, x: Value | None, y: Value | None) -> Value:
    """Return x + y, where None stands for zeros of the shape and type of `like`."""
    if x is None and y is None:
        return zero(Spec(like.shape, like.dtype))
    return x if y is None else y if x is None else add(x, y)


def input_gradients(
    dgates: Value, read: tuple[Value, Value, Value], ws: tuple[Value, Value], needs: Flags,
    backwards: bool,
) -> tuple[Value | None, ...]:  # fmt: skip
    """Return the gradients of x, w_ih, bias, the first state and w, None for those that nobody
    needs.

    `read` are x, hs and the first state; `ws` are w_ih and w; `needs` has flags for x, w_ih, bias
    and the first state in front, and for w at the end."""
    dx = dw_ih = db = dh = dw = None
    if needs[0]:
        dx = matmul(dgates, ws[0])
    if needs[1] or needs[2] or needs[-1]:
        dw_ih, dw, db = sequence_dw(dgates, *read, backwards=backwards)
    if needs[3]:
        dh = first_product(dgates, ws[1], backwards)
    return dx, dw_ih, db, dh, dw


def first_product(dgates: Value, w: Value, backwards: bool) -> Value:
    """Return the first step's dgates times w: the gradient of the first state."""
    first = walk(dgates.shape[0], backwards)[0]
    return matmul(reshape(_cut(dgates, first, first + 1), shape=dgates.shape[1:]), w)


def fitted(
    gradients: tuple[Value | None, ...], specs: tuple[Spec, ...]
) -> tuple[Value | None, ...]:
    """Return gradients in the shapes and types of their operands; sums of a narrow type stay in the
    wider one in which they were formed."""
    return tuple(
        g if g is None or g.dtype == computed_in(s.dtype) != s.dtype else fit(g, s)
        for g, s in zip(gradients, specs, strict=True)
    )


def _cut(x: Value, first: int, last: int) -> Value:
    """Return the steps of x from `first` up to `last`, not including it."""
    return getslice(x, slices=((first, last, 1), *((0, n, 1) for n in x.shape[1:])))


def _weights(
    dgates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> tuple[Spec, Spec, Spec]:
    g, dtype = dgates.shape[2], computed_in(dgates.dtype)
    return Spec((g, x.shape[2]), dtype), Spec((g, hs.shape[2]), dtype), Spec((g,), dtype)


@primitive(
    infer=_weights,
    cost=lambda y, dgates, x, hs, h, **a: Cost(
        macs=dgates.size * (x.shape[2] + hs.shape[2]), add=dgates.size
    ),
    outputs=("dw_ih", "dw", "db"),
    phase="backward_weights",
)
def sequence_dw(
    dgates: NDArray, x: NDArray, hs: NDArray, h: NDArray, *, backwards: bool
) -> tuple[NDArray, NDArray, NDArray]:
    """Return dw_ih (G, I), dw (G, H) and db (G,), each summed over all steps.

    They are sums of dgates[t]^T x[t], of dgates[t]^T and the state before, and of dgates[t]; h is
    the state before the first step."""
    old = _before(hs, h, backwards)
    flat = dgates.reshape(-1, dgates.shape[2])
    # Steps and samples are merged into rows: one long sum each instead of T products.
    dw_ih, dw = (matmul.reference(flat.T, y.reshape(-1, y.shape[2])) for y in (x, old))
    return dw_ih, dw, sum_over(flat, (0,))


@sequence_dw.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    dgates, x, hs, h = args
    grads = transposed(rows(dgates))
    return [matrix_product(grads, right) for right in (rows(x), states_before(hs, h, **attrs))]


def nonzeros_back(w: Array, dgates: Array, backwards: bool) -> list[CountedProduct]:
    """Count the products of the way back: every step but the first sends one to the step before."""
    later = dgates.value[:-1] if backwards else dgates.value[1:]
    return [matrix_product(rows(dgates, later), factor(w, weights=True))]


def states_before(hs: Array, h: Array, backwards: bool) -> Factor:
    """Return the states that the steps of a sequence start from, as a factor."""
    return rows(hs, _before(hs.value, h.value, backwards))


def _before(hs: NDArray, h: NDArray, backwards: bool) -> NDArray:
    return np.concatenate((hs[1:], h[None]) if backwards else (h[None], hs[:-1]))


@sequence_dw.vjp("dgates", "x", "hs", "h")
def _(
    ddw_ih: Value | None, ddw: Value | None, ddb: Value | None, dgates: Value, x: Value, hs: Value,
    h: Value, specs: tuple[Spec, ...], backwards: bool,
) -> tuple[Value, ...]:  # fmt: skip
    ddw = zero(Spec((dgates.shape[2], hs.shape[2]), dgates.dtype)) if ddw is None else ddw
    ddgates, dhs, dh = states_gradients(ddw, dgates, hs, h, backwards)
    dx = zero(Spec(x.shape, x.dtype))
    if ddw_ih is not None:
        ddgates, dx = add(ddgates, matmul(x, swapped(ddw_ih))), matmul(dgates, ddw_ih)
    if ddb is not None:
        ddgates = add(ddgates, ddb)
    return ddgates, dx, dhs, dh


def states_gradients(
    ddw: Value, dgates: Value, hs: Value, h: Value, backwards: bool
) -> tuple[Value, Value, Value]:
    """Return the gradients of dgates, hs and h for one of dw = dgates^T times the states before."""
    count, old = hs.shape[0], earlier_states(hs, h, backwards)
    dold = matmul(dgates, ddw)
    first = count - 1 if backwards else 0
    dh = reshape(_cut(dold, first, first + 1), shape=h.shape)
    later = _cut(dold, 0, count - 1) if backwards else _cut(dold, 1, count)
    dhs = _joined(zero(Spec((1, *h.shape), hs.dtype)), later, not backwards)
    return matmul(old, swapped(ddw)), dhs, dh


def earlier_states(hs: Value, h: Value, backwards: bool) -> Value:
    """Return the states (T, N, H) that the steps of a sequence start from, the first one from h."""
    count = hs.shape[0]
    inner = _cut(hs, 1, count) if backwards else _cut(hs, 0, count - 1)
    return _joined(reshape(h, shape=(1, *h.shape)), inner, backwards)


def _joined(one: Value, others: Value, behind: bool) -> Value:
    """Return one step and the others, which come before it if `behind`, concatenated in time."""
    return concatenate(*((others, one) if behind else (one, others)), axis=0)
