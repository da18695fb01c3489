"""Gated recurrent units (Cho et al. 2014): a layer's way through a sequence, and its derivatives.

Inputs enter as gates (T, N, 3 H) = x w_ih^T + b_ih of all steps, in torch's order r z n; states are
(T, N, H), weights w (3 H, H). `acts` (T, N, 4 H) hold r z n m, m = h w_n^T + b_n being what r
multiplies.

On arrays, one primitive goes back through time. Where gradients are themselves recorded, the same
steps are calls of primitives that have derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..array import Array, NDArray, Spec
from ..dtypes import computed_in
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, factor, matrix_product, rows, transposed
from ..primitive import Value, primitive
from ..summation import sum_over
from .activation import sigmoid, sigmoid_dx, tanh, tanh_dx
from .elementwise import add, mul, sub
from .linear import matmul
from .recurrent import parts, quarters, stack
from .rules import agreed, common
from .sequence_weights import (
    Flags,
    at_places,
    first_product,
    fitted,
    known_gradients,
    nonzeros_back,
    states_before,
    states_gradients,
    steps_of,
    sum_of,
    walk,
)
from .shape import concatenate, full, getslice, zero


def gru_cell(x: Value, h_gates: Value, h: Value) -> Value:
    """Return the next state (N, H) of a step: x and h_gates (N, 3 H) are the projections of the
    input and of the state h (N, H), each with its bias.

    With r, z = sigmoid(x + h_gates) and n = tanh(x + r h_gates), of a third each: n + z (h - n)."""
    rows, n = h.shape

    def third(y: Value, first: int, last: int) -> Value:
        return getslice(y, slices=((0, rows, 1), (first * n, last * n, 1)))

    rz = sigmoid(add(third(x, 0, 2), third(h_gates, 0, 2)))
    new = tanh(add(third(x, 2, 3), mul(third(rz, 0, 1), third(h_gates, 2, 3))))
    return add(new, mul(third(rz, 1, 2), sub(h, new)))


def _gru(gates: Spec, h: Spec, w: Spec, bias: Spec, *, backwards: bool) -> tuple[Spec, ...]:
    """Shape rule of gru_sequence."""
    size = h.shape[-1] if h.shape else 0
    expected = [(*gates.shape[:1], *h.shape[:1], 3 * size), (3 * size, size), (3 * size,)]
    shapes = [gates.shape, w.shape, bias.shape]
    if shapes != expected or len(h.shape) != 2 or not gates.shape[0]:
        raise ValueError(f"gru_sequence: expected gates, w, bias of {expected}, got {shapes}")
    dtype = common(gates, h, w, bias)
    states = (gates.shape[0], *h.shape)
    acts = Spec((*states[:2], 4 * size), dtype)
    return Spec(states, dtype), Spec(h.shape, dtype), acts


def _gru_cost(y: tuple[Spec, ...], *specs: Spec, backwards: bool) -> Cost:
    """Cost rule of gru_sequence. For each unit: the product; three sums with the bias; two sigmoids
    of an exp, an addition and a division; tanh; three sums and three products around them."""
    n = y[0].size
    return Cost(macs=3 * n * y[0].shape[2], exp=3 * n, add=10 * n, div=2 * n, mul=2 * n)


@primitive(infer=_gru, cost=_gru_cost, outputs=("hs", "last", "acts"))
def gru_sequence(
    gates: NDArray, h: NDArray, w: NDArray, bias: NDArray, *, backwards: bool
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the states hs (T, N, H), the last one (N, H) and acts, starting from h (N, H).

    With u = h w^T + bias, r = sigmoid(gates_r + u_r), z = sigmoid(gates_z + u_z) and n =
    tanh(gates_n + r u_n), the next state is n + z (h - n)."""
    gates, h, w, bias = agreed(gates, h, w, bias)
    size = h.shape[1]
    hs = np.empty((len(gates), *h.shape), h.dtype)
    acts = np.empty((*hs.shape[:2], 4 * size), h.dtype)
    for t in walk(len(gates), backwards):
        u = h @ w.T
        u += bias
        y = acts[t]
        y[:, : 2 * size] = sigmoid.reference(gates[t, :, : 2 * size] + u[:, : 2 * size])
        y[:, 3 * size :] = u[:, 2 * size :]
        r, z, n, m = _blocks(y)
        np.tanh(gates[t, :, 2 * size :] + r * m, out=n)
        h = np.add(n, z * (h - n), out=hs[t])
    return hs, h.copy(), acts


def _blocks(acts: NDArray) -> list[NDArray]:
    """Return the four blocks of columns of an array, as views."""
    n = acts.shape[1] // 4
    return [acts[:, i * n : (i + 1) * n] for i in range(4)]


@gru_sequence.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    _, h, w, _ = args
    states = states_before(results[0], h, attrs["backwards"])
    return [matrix_product(states, transposed(factor(w, weights=True)))]


@gru_sequence.vjp("gates", "h", "w", "bias")
def _(
    dhs: Value | None, dlast: Value | None, dacts: Value | None, hs: Value, acts: Value, h: Value,
    w: Value, specs: tuple[Spec, ...], needs: Flags, backwards: bool,
) -> tuple[Value | None, ...]:  # fmt: skip
    grads, present, recorded = known_gradients(dhs, dlast)
    if recorded or dacts is not None:
        dgates, dstates, dh = _gru_back((dhs, dlast, dacts), acts, hs, h, w, backwards)
    else:
        dgates, dstates, dh = gru_sequence_dx(
            acts, hs, h, w, *grads, present=present, backwards=backwards
        )
    dw = db = None
    if needs[2] or needs[3]:
        dw, db = states_dw(dstates, hs, h, backwards=backwards)
    first = add(dh, first_product(dstates, w, backwards)) if needs[1] else None
    return fitted((dgates, first, dw, db), specs)


def _gru_back(
    incoming: tuple[Value | None, ...], acts: Value, hs: Value, h: Value, w: Value, backwards: bool
) -> tuple[Value, Value, Value]:
    """Return what `gru_sequence_dx` does, step by step, also for gradients of acts."""
    dhs, dh, dacts = incoming
    count, order, like = acts.shape[0], walk(acts.shape[0], backwards), Spec(h.shape, acts.dtype)
    states, values = parts(hs), parts(acts)
    old = dict(zip(order, [h, *[states[t] for t in order]], strict=False))
    tops, bends = steps_of(dhs, count), steps_of(dacts, count)
    one = full(shape=(), dtype=acts.dtype, value=1.0)
    dgates: dict[int, Value] = {}
    dstates: dict[int, Value] = {}
    for t in reversed(order):
        if t != order[-1]:
            dh = add(dh, matmul(dstates[t + order.step], w))
        dh = sum_of(like, dh, tops[t])
        r, z, n, m = quarters(values[t])
        br, bz, bn, bm = (None,) * 4 if bends[t] is None else quarters(bends[t])
        dn = tanh_dx(sum_of(like, mul(dh, sub(one, z)), bn), n)
        dz = sigmoid_dx(sum_of(like, mul(dh, sub(old[t], n)), bz), z)
        dr = sigmoid_dx(sum_of(like, mul(dn, m), br), r)
        dgates[t] = concatenate(dr, dz, dn, axis=1)
        dstates[t] = concatenate(dr, dz, sum_of(like, mul(dn, r), bm), axis=1)
        dh = mul(dh, z)
    return *(stack(*[d[t] for t in range(count)]) for d in (dgates, dstates)), dh


def _gru_dx(
    acts: Spec, hs: Spec, *specs: Spec, present: Flags, backwards: bool
) -> tuple[Spec, ...]:
    """Shape rule of gru_sequence_dx."""
    gates = Spec((*hs.shape[:2], 3 * hs.shape[2]), acts.dtype)
    return gates, gates, Spec(hs.shape[1:], acts.dtype)


def _gru_dx_cost(
    y: tuple[Spec, ...], acts: Spec, hs: Spec, *specs: Spec, present: Flags, backwards: bool
) -> Cost:
    """Cost rule of gru_sequence_dx: its formulas for each unit. The last step receives nothing from
    a later one."""
    later = hs.size - y[2].size
    sums = later + (hs.size if present[0] else 0)
    return Cost(macs=3 * later * hs.shape[2], mul=11 * hs.size, add=5 * hs.size + sums)


@primitive(infer=_gru_dx, cost=_gru_dx_cost, outputs=("dgates", "dstates", "dh"))
def gru_sequence_dx(
    acts: NDArray, hs: NDArray, h: NDArray, w: NDArray, *grads: NDArray, present: Flags,
    backwards: bool,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    """Return the gradients of gates and of h w^T + bias, each (T, N, 3 H), and what the first step
    sends to h past the product (N, H).

    `grads` are the gradients of hs and of the last state, as far as `present` says. From the last
    step to the first, dh = dhs[t] + dstates[t + 1] w + z[t + 1] dh[t + 1]; dn = dh (1 - z) (1 -
    n^2), dm = dn r, dz = dh (h - n) z (1 - z), dr = dn m r (1 - r)."""
    dhs, dlast = at_places(grads, present)
    dh = np.zeros_like(hs[0]) if dlast is None else dlast
    size, order = hs.shape[2], walk(len(hs), backwards)
    dgates, dstates = (np.empty((*hs.shape[:2], 3 * size), acts.dtype) for _ in range(2))
    old = dict(zip(order, [h, *[hs[t] for t in order]], strict=False))
    for t in reversed(order):
        if t != order[-1]:
            dh = dh + dstates[t + order.step] @ w
        dh = dh if dhs is None else dh + dhs[t]
        r, z, n, m = _blocks(acts[t])
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz = dn * m * r * (1 - r), dh * (old[t] - n) * z * (1 - z)
        np.concatenate((dr, dz, dn), 1, out=dgates[t])
        np.concatenate((dr, dz, dn * r), 1, out=dstates[t])
        dh = dh * z
    return dgates, dstates, dh


@gru_sequence_dx.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    return nonzeros_back(args[3], results[1], attrs["backwards"])


def _states_dw(dgates: Spec, hs: Spec, h: Spec, *, backwards: bool) -> tuple[Spec, Spec]:
    """Shape rule of states_dw."""
    g, dtype = dgates.shape[2], computed_in(dgates.dtype)
    return Spec((g, hs.shape[2]), dtype), Spec((g,), dtype)


@primitive(
    infer=_states_dw,
    cost=lambda y, dgates, hs, h, **a: Cost(macs=dgates.size * hs.shape[2], add=dgates.size),
    outputs=("dw", "db"),
    phase="backward_weights",
)
def states_dw(
    dgates: NDArray, hs: NDArray, h: NDArray, *, backwards: bool
) -> tuple[NDArray, NDArray]:
    """Return dw (G, H), the sum of dgates[t]^T and the state before, and db (G,), that of
    dgates[t]; h is the state before the first step."""
    old = np.concatenate((hs[1:], h[None]) if backwards else (h[None], hs[:-1]))
    flat = dgates.reshape(-1, dgates.shape[2])
    return matmul.reference(flat.T, old.reshape(-1, h.shape[1])), sum_over(flat, (0,))


@states_dw.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    dgates, hs, h = args
    return [matrix_product(transposed(rows(dgates)), states_before(hs, h, **attrs))]


@states_dw.vjp("dgates", "hs", "h")
def _(
    ddw: Value | None, ddb: Value | None, dgates: Value, hs: Value, h: Value,
    specs: tuple[Spec, ...], backwards: bool,
) -> tuple[Value, ...]:  # fmt: skip
    ddw = zero(Spec((dgates.shape[2], hs.shape[2]), dgates.dtype)) if ddw is None else ddw
    ddgates, dhs, dh = states_gradients(ddw, dgates, hs, h, backwards)
    return ddgates if ddb is None else add(ddgates, ddb), dhs, dh
