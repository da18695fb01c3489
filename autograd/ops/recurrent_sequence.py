"""One layer and one direction of a recurrent network over a whole sequence, and its derivatives.

Inputs x are (T, N, I), gates (T, N, G) with G = 4 H for an LSTM and H for an Elman network, states
(T, N, H), weights w_ih (G, I) and w (G, H); `backwards` walks from the last step to the first.

On arrays, one primitive goes back through time. Where gradients are themselves recorded, for
gradients of gradients, the same steps are calls of the cells' primitives instead."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..array import Array, NDArray, Spec
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, factor, matrix_product, rows, transposed
from ..primitive import Value, primitive
from .linear import linear, matmul
from .recurrent import (
    NONLINEARITIES,
    cell_gradients,
    lstm_cell,
    lstm_cell_dx,
    parts,
    stack,
)
from .rules import agreed, common, one_kind
from .sequence_weights import (
    Flags,
    at_places,
    fitted,
    input_gradients,
    known_gradients,
    nonzeros_back,
    states_before,
    steps_of,
    sum_of,
    walk,
)


def checked(
    name: str, many: int, x: Spec, w_ih: Spec, bias: Spec, state: Spec, w: Spec, *others: Spec
) -> Any:
    """Return the type of the results, to which `others` count too. ValueError, which lists both
    sets of shapes, where those of the first five do not fit."""
    h = state.shape[-1] if state.shape else 0
    batch, width = x.shape[:2], x.shape[-1] if x.shape else 0
    rows = many * h
    expected = [(*batch, width), (rows, width), (rows,), (*batch[1:], h), (rows, h)]
    shapes = [x.shape, w_ih.shape, bias.shape, state.shape, w.shape]
    if shapes != expected or len(x.shape) != 3 or not x.shape[0]:
        raise ValueError(f"{name}: expected x, w_ih, bias, state, w of {expected}, got {shapes}")
    one_kind(name, x, w_ih, bias, state, w)
    return common(x, w_ih, bias, state, w, *others)


def _forward_cost(cells: Cost, states: Spec, x: Spec, bias: Spec) -> Cost:
    """Return the cost of the cells, and of the two products and two sums that their gates take."""
    gates = prod(states.shape[:2]) * bias.size
    width = x.shape[2] + states.shape[2]
    return cells._replace(macs=gates * width, add=cells.add + 2 * gates)


def _backward_cost(slopes: Cost, states: Spec, w: Spec, present: Flags) -> Cost:
    """Return the cost of the slopes and of the way back.

    The last step receives no product from a later one."""
    later = prod(states.shape[1:]) * (states.shape[0] - 1)
    sums = later + (states.size if present[0] else 0)
    return slopes._replace(macs=later * w.shape[0], add=slopes.add + sums)


def nonzeros_forward(
    x: Array, w_ih: Array, h: Array, w: Array, hs: Array, backwards: bool
) -> list[CountedProduct]:
    """Count both products of a sequence, of inputs and of states with their weights."""
    return [
        matrix_product(rows(x), transposed(factor(w_ih, weights=True))),
        matrix_product(states_before(hs, h, backwards), transposed(factor(w, weights=True))),
    ]


def _inputs(x: NDArray, w_ih: NDArray) -> NDArray:
    """Return x w_ih^T of all steps in one product, which is faster than one for each step."""
    flat = x.reshape(-1, x.shape[2])
    return linear.reference(flat, w_ih).reshape(*x.shape[:2], len(w_ih))


def _total(gates: NDArray, bias: NDArray, h: NDArray, w: NDArray) -> NDArray:
    """Return gates + bias + h w^T."""
    y = h @ w.T
    y += gates
    y += bias
    return y


def _lstm(
    x: Spec, w_ih: Spec, bias: Spec, h: Spec, c: Spec, w: Spec, *, backwards: bool
) -> tuple[Spec, ...]:
    """Shape rule of lstm_sequence."""
    dtype = checked("lstm_sequence", 4, x, w_ih, bias, h, w, c)
    if c.shape != h.shape:
        raise ValueError(
            f"lstm_sequence: expected cells of the states' shape {h.shape}, got {c.shape}"
        )
    states, last = Spec((x.shape[0], *h.shape), dtype), Spec(h.shape, dtype)
    return states, last, last, states, Spec((*x.shape[:2], *bias.shape), dtype)


def _lstm_cost(
    y: tuple[Spec, ...], x: Spec, w_ih: Spec, bias: Spec, *others: Spec, backwards: bool
) -> Cost:
    """Cost rule of lstm_sequence and lstm_states: one cell for each step and sample, and the
    gates."""
    return _forward_cost(lstm_cell.cost(y, w_ih, y[0]), y[0], x, bias)


@primitive(
    infer=_lstm,
    cost=_lstm_cost,
    outputs=("hs", "last", "cell", "cells", "acts"),
)
def lstm_sequence(
    x: NDArray, w_ih: NDArray, bias: NDArray, h: NDArray, c: NDArray, w: NDArray, *,
    backwards: bool,
) -> tuple[NDArray, ...]:  # fmt: skip
    """Return the states of an LSTM over a sequence, and what its derivative needs.

    hs and cells (T, N, H): the states after each step, starting from h and c (N, H), with gates
    x[t] w_ih^T + bias + h w^T, see `lstm_cell`; `last` and `cell` (N, H): the final ones; `acts`
    (T, N, 4 H): i f g o of each step."""
    x, w_ih, bias, h, c, w = agreed(x, w_ih, bias, h, c, w)
    gates = _inputs(x, w_ih)
    hs, cells = (np.empty((len(gates), *h.shape), h.dtype) for _ in range(2))
    acts = np.empty(gates.shape, h.dtype)
    for t in walk(len(gates), backwards):
        h, c, acts[t] = lstm_cell.reference(_total(gates[t], bias, h, w), c)
        hs[t], cells[t] = h, c
    return hs, h, c, cells, acts


@primitive(
    infer=lambda *specs, **attrs: _lstm(*specs, **attrs)[:3],
    cost=_lstm_cost,
    outputs=("hs", "last", "cell"),
)
def lstm_states(
    x: NDArray, w_ih: NDArray, bias: NDArray, h: NDArray, c: NDArray, w: NDArray, *,
    backwards: bool,
) -> tuple[NDArray, ...]:  # fmt: skip
    """Return hs, last and cell of `lstm_sequence`: for inference, nothing is kept for a
    derivative."""
    x, w_ih, bias, h, c, w = agreed(x, w_ih, bias, h, c, w)
    gates = _inputs(x, w_ih)
    hs = np.empty((len(gates), *h.shape), h.dtype)
    for t in walk(len(gates), backwards):
        h, c, _ = lstm_cell.reference(_total(gates[t], bias, h, w), c)
        hs[t] = h
    return hs, h, c


@lstm_sequence.nonzeros
@lstm_states.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    x, w_ih, _, h, _, w = args
    return nonzeros_forward(x, w_ih, h, w, results[0], attrs["backwards"])


@lstm_sequence.vjp("x", "w_ih", "bias", "h", "c", "w")
def _(
    dhs: Value | None, dlast: Value | None, dcell: Value | None, dcells: Value | None,
    dacts: Value | None, hs: Value, cells: Value, acts: Value, x: Value, w_ih: Value, h: Value,
    c: Value, w: Value, specs: tuple[Spec, ...], needs: Flags, backwards: bool,
) -> tuple[Value | None, ...]:  # fmt: skip
    grads, present, recorded = known_gradients(dhs, dlast, dcell)
    if recorded or dcells is not None or dacts is not None:
        incoming = dhs, dlast, dcell, dcells, dacts
        dgates, dc = _lstm_back(incoming, cells, acts, c, w, backwards)
    else:
        dgates, dc = lstm_sequence_dx(
            acts, cells, c, w, *grads, present=present, backwards=backwards
        )
    dx, dw_ih, db, dh, dw = input_gradients(dgates, (x, hs, h), (w_ih, w), needs, backwards)
    return fitted((dx, dw_ih, db, dh, dc, dw), specs)


def _lstm_back(
    incoming: tuple[Value | None, ...], cells: Value, acts: Value, c: Value, w: Value,
    backwards: bool,
) -> tuple[Value, Value]:  # fmt: skip
    """Return what `lstm_sequence_dx` does, step by step, also for gradients of cells and acts."""
    dhs, dh, dc, dcells, dacts = incoming
    count, nothing = acts.shape[0], Spec(c.shape, acts.dtype)
    order, steps, values = walk(count, backwards), parts(cells), parts(acts)
    # The cell before each step: c before the first, then that of the step walked before.
    old = dict(zip(order, [c, *[steps[t] for t in order]], strict=False))
    tops, inner, bends = (steps_of(x, count) for x in (dhs, dcells, dacts))
    dgates: dict[int, Value] = {}
    for t in reversed(order):
        dh, dc = sum_of(nothing, dh, tops[t]), sum_of(nothing, dc, inner[t])
        dgates[t], dc = cell_gradients(dh, dc, bends[t], values[t], old[t], steps[t])
        dh = matmul(dgates[t], w)
    return stack(*[dgates[t] for t in range(count)]), dc


def _lstm_dx(
    acts: Spec, cells: Spec, c: Spec, w: Spec, *grads: Spec, present: Flags, backwards: bool
) -> tuple[Spec, Spec]:
    """Shape rule of lstm_sequence_dx."""
    return acts, Spec(c.shape, acts.dtype)


@primitive(
    infer=_lstm_dx,
    cost=lambda y, acts, cells, c, w, *grads, present, backwards: _backward_cost(
        lstm_cell_dx.cost(y, cells), cells, w, present
    ),
    outputs=("dgates", "dc"),
    phase="backward_data",  # also where only the weights want a gradient
)
def lstm_sequence_dx(
    acts: NDArray, cells: NDArray, c: NDArray, w: NDArray, *grads: NDArray, present: Flags,
    backwards: bool,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Return dgates (T, N, 4 H) and dc (N, H), the gradients of the gates and of the first cells.

    `grads` are the gradients of hs, of the last state and of the last cells, as far as `present`
    says. From the last step to the first, dh = dhs[t] + dgates[t + 1] w; the rest is
    `lstm_cell_dx`."""
    dhs, dh, dcell = at_places(grads, present)
    dgates, nothing = np.empty_like(acts), np.zeros_like(cells[0])
    dc = nothing if dcell is None else dcell
    order = walk(len(acts), backwards)
    # The cell before each step: c before the first, then that of the step walked before.
    old = dict(zip(order, [c, *[cells[t] for t in order]], strict=False))
    for t in reversed(order):
        if t != order[-1]:
            dh = dgates[t + order.step] @ w
        dh = nothing if dh is None else dh
        dh = dh if dhs is None else dh + dhs[t]
        dgates[t], dc = lstm_cell_dx.reference(dh, dc, acts[t], old[t], cells[t])
    return dgates, dc


@lstm_sequence_dx.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    return nonzeros_back(args[3], results[0], attrs["backwards"])


def _rnn(
    x: Spec, w_ih: Spec, bias: Spec, h: Spec, w: Spec, *, nonlinearity: str, backwards: bool
) -> tuple[Spec, Spec]:
    """Shape rule of rnn_sequence."""
    dtype = checked("rnn_sequence", 1, x, w_ih, bias, h, w)
    return Spec((x.shape[0], *h.shape), dtype), Spec(h.shape, dtype)


@primitive(
    infer=_rnn,
    cost=lambda y, x, w_ih, bias, *s, nonlinearity, backwards: _forward_cost(
        NONLINEARITIES[nonlinearity][0].cost(y[0], y[0]), y[0], x, bias
    ),
    outputs=("hs", "last"),
)
def rnn_sequence(
    x: NDArray, w_ih: NDArray, bias: NDArray, h: NDArray, w: NDArray, *, nonlinearity: str,
    backwards: bool,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Return the states hs (T, N, H) of an Elman network over a sequence, and the last one (N, H).

    Each is f(x[t] w_ih^T + bias + h w^T), f being "tanh" or "relu" and h the state before, which
    starts as h (N, H)."""
    x, w_ih, bias, h, w = agreed(x, w_ih, bias, h, w)
    gates = _inputs(x, w_ih)
    function, _ = NONLINEARITIES[nonlinearity]
    hs = np.empty_like(gates)
    for t in walk(len(gates), backwards):
        h = function.reference(_total(gates[t], bias, h, w))
        hs[t] = h
    return hs, h


@rnn_sequence.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    x, w_ih, _, h, w = args
    return nonzeros_forward(x, w_ih, h, w, results[0], attrs["backwards"])


@rnn_sequence.vjp("x", "w_ih", "bias", "h", "w")
def _(
    dhs: Value | None, dlast: Value | None, hs: Value, x: Value, w_ih: Value, h: Value, w: Value,
    specs: tuple[Spec, ...], needs: Flags, nonlinearity: str, backwards: bool,
) -> tuple[Value | None, ...]:  # fmt: skip
    grads, present, recorded = known_gradients(dhs, dlast)
    if recorded:
        dgates = _rnn_back(dhs, dlast, hs, w, nonlinearity, backwards)
    else:
        dgates = rnn_sequence_dx(
            hs, w, *grads, present=present, nonlinearity=nonlinearity, backwards=backwards
        )
    gradients = input_gradients(dgates, (x, hs, h), (w_ih, w), needs, backwards)
    return fitted(gradients, specs)


def _rnn_back(
    dhs: Value | None, dh: Value | None, hs: Value, w: Value, nonlinearity: str, backwards: bool
) -> Value:
    """Return what `rnn_sequence_dx` does, step by step."""
    count = hs.shape[0]
    values, tops = parts(hs), steps_of(dhs, count)
    _, slope = NONLINEARITIES[nonlinearity]
    dgates: dict[int, Value] = {}
    for t in reversed(walk(count, backwards)):
        dh = slope(sum_of(values[t], dh, tops[t]), values[t])
        dgates[t] = dh
        dh = matmul(dh, w)
    return stack(*[dgates[t] for t in range(count)])


@primitive(
    infer=lambda hs, w, *grads, **attrs: hs,
    cost=lambda y, hs, w, *grads, present, nonlinearity, backwards: _backward_cost(
        NONLINEARITIES[nonlinearity][1].cost(hs, hs), hs, w, present
    ),
    outputs=("dgates",),
    phase="backward_data",
)
def rnn_sequence_dx(
    hs: NDArray,
    w: NDArray,
    *grads: NDArray,
    present: Flags,
    nonlinearity: str,
    backwards: bool,
) -> NDArray:
    """Return dgates (T, N, H), the gradient of the gates.

    `grads` are the gradients of hs and of the last state, as far as `present` says. From the last
    step to the first, dgates[t] = f'(hs[t]) (dhs[t] + dgates[t + 1] w)."""
    dhs, dh = at_places(grads, present)
    _, slope = NONLINEARITIES[nonlinearity]
    dgates = np.empty_like(hs)
    order = walk(len(hs), backwards)
    for t in reversed(order):
        if t != order[-1]:
            dh = dgates[t + order.step] @ w
        dh = np.zeros_like(hs[t]) if dh is None else dh
        dgates[t] = slope.reference(dh if dhs is None else dh + dhs[t], hs[t])
    return dgates


@rnn_sequence_dx.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    return nonzeros_back(args[1], results[0], attrs["backwards"])
