"""Gated recurrent units (Cho et al. 2014): a layer's way through a sequence, and its derivatives.

Inputs x are (T, N, I), states (T, N, H), weights w_ih (3 H, I) and w (3 H, H), biases b_ih and b_hh
(3 H,), gates in torch's order r z n. `acts` (T, N, 4 H) hold r z n m, m = h w_n^T + b_n being what
r multiplies.

On arrays, one primitive goes back through time. Where gradients are themselves recorded, the same
steps are calls of primitives that have derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import context
from ..array import Array, NDArray, Spec
from ..dtypes import computed_in
from ..ledger import Cost
from ..nonzeros import Attrs, CountedProduct, matrix_product, rows, transposed
from ..primitive import Value, primitive
from ..summation import sum_over
from .activation import sigmoid, sigmoid_dx, tanh, tanh_dx
from .elementwise import add, mul, sub
from .linear import linear, linear_db, linear_dw, matmul, swapped
from .recurrent import parts, quarters, stack
from .recurrent_sequence import checked, nonzeros_forward
from .rules import agreed
from .sequence_weights import (
    Flags,
    at_places,
    earlier_states,
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


def _gru(
    x: Spec, w_ih: Spec, b_ih: Spec, h: Spec, w: Spec, b_hh: Spec, *, backwards: bool,
    name: str = "gru_sequence",
) -> tuple[Spec, ...]:  # fmt: skip
    """Shape rule of gru_sequence."""
    dtype = checked(name, 3, x, w_ih, b_ih, h, w, b_hh)
    if b_hh.shape != b_ih.shape:
        raise ValueError(f"{name}: expected biases of one shape, got {b_ih.shape} and {b_hh.shape}")
    states = (x.shape[0], *h.shape)
    acts = Spec((*states[:2], 4 * h.shape[1]), dtype)
    return Spec(states, dtype), Spec(h.shape, dtype), acts


def _gru_cost(y: tuple[Spec, ...], x: Spec, *specs: Spec, backwards: bool) -> Cost:
    """Cost rule of gru_sequence and gru_states. For each unit: two products with three biases each;
    two sigmoids of an exp, an addition and a division; tanh; five sums and two products around
    them."""
    n = y[0].size
    width = x.shape[2] + y[0].shape[2]
    return Cost(macs=3 * n * width, exp=3 * n, add=13 * n, div=2 * n, mul=2 * n)


@primitive(infer=_gru, cost=_gru_cost, outputs=("hs", "last", "acts"))
def gru_sequence(
    x: NDArray, w_ih: NDArray, b_ih: NDArray, h: NDArray, w: NDArray, b_hh: NDArray, *,
    backwards: bool,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    """Return the states hs (T, N, H), the last one (N, H) and acts, starting from h (N, H).

    With a = x w_ih^T + b_ih, u = h w^T + b_hh, r = sigmoid(a_r + u_r), z = sigmoid(a_z + u_z) and n
    = tanh(a_n + r u_n), the next state is n + z (h - n)."""
    x, w_ih, b_ih, h, w, b_hh = agreed(x, w_ih, b_ih, h, w, b_hh)
    gates, size = linear.reference(x, w_ih, b_ih), h.shape[1]
    hs = np.empty((len(gates), *h.shape), h.dtype)
    acts = np.empty((*hs.shape[:2], 4 * size), h.dtype)
    for t in walk(len(gates), backwards):
        u = h @ w.T
        u += b_hh
        y = acts[t]
        y[:, : 2 * size] = sigmoid.reference(gates[t, :, : 2 * size] + u[:, : 2 * size])
        y[:, 3 * size :] = u[:, 2 * size :]
        r, z, n, m = _blocks(y)
        np.tanh(gates[t, :, 2 * size :] + r * m, out=n)
        h = np.add(n, z * (h - n), out=hs[t])
    return hs, h.copy(), acts


@primitive(
    infer=lambda *specs, backwards: _gru(*specs, backwards=backwards, name="gru_states")[:2],
    cost=_gru_cost,
    outputs=("hs", "last"),
)
def gru_states(
    x: NDArray, w_ih: NDArray, b_ih: NDArray, h: NDArray, w: NDArray, b_hh: NDArray, *,
    backwards: bool,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Return hs and last of `gru_sequence`: for inference, nothing is kept for a derivative."""
    hs, last, _ = gru_sequence.reference(x, w_ih, b_ih, h, w, b_hh, backwards=backwards)
    return hs, last


def _blocks(acts: NDArray) -> list[NDArray]:
    """Return the four blocks of columns of an array, as views."""
    n = acts.shape[1] // 4
    return [acts[:, i * n : (i + 1) * n] for i in range(4)]


@gru_sequence.nonzeros
@gru_states.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    x, w_ih, _, h, w, _ = args
    return nonzeros_forward(x, w_ih, h, w, results[0], attrs["backwards"])


@gru_sequence.vjp("x", "w_ih", "b_ih", "h", "w", "b_hh")
def _(
    dhs: Value | None, dlast: Value | None, dacts: Value | None, hs: Value, acts: Value, x: Value,
    w_ih: Value, h: Value, w: Value, specs: tuple[Spec, ...], needs: Flags, backwards: bool,
) -> tuple[Value | None, ...]:  # fmt: skip
    grads, present, recorded = known_gradients(dhs, dlast)
    if recorded or dacts is not None:
        dgates, dstates, dh = _gru_back((dhs, dlast, dacts), acts, hs, h, w, backwards)
    else:
        dgates, dstates, dh = gru_sequence_dx(
            acts, hs, h, w, *grads, present=present, backwards=backwards
        )
    dx = matmul(dgates, w_ih) if needs[0] else None
    dw_ih = db_ih = dw = db_hh = None
    if any(needs[1:3]) and any(needs[4:]):
        dw_ih, db_ih, dw, db_hh = gru_dw(dgates, dstates, x, hs, h, backwards=backwards)
    elif any(needs[1:3]):
        dw_ih, db_ih = _side(dgates, x, specs[:3], needs[1:3])
    elif any(needs[4:]):
        old = earlier_states(hs, h, backwards)
        dw, db_hh = _side(dstates, old, specs[3:], needs[4:])
    first = add(dh, first_product(dstates, w, backwards)) if needs[3] else None
    return fitted((dx, dw_ih, db_ih, first, dw, db_hh), specs)


def _side(
    dy: Value, read: Value, specs: tuple[Spec, ...], needs: Flags
) -> tuple[Value | None, Value | None]:
    """Return the gradients of the weight and the bias of one side, of inputs or of states, where
    the other side's are frozen: those of `linear`."""
    phase = context.current().phase
    with context.using(phase="backward_weights" if phase == "backward_data" else phase):
        dw = linear_dw(dy, read, specs) if needs[0] else None
        return dw, linear_db(dy, specs) if needs[1] else None


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


@primitive(
    infer=_gru_dx,
    cost=_gru_dx_cost,
    outputs=("dgates", "dstates", "dh"),
    phase="backward_data",  # also where only the weights want a gradient
)
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


def _weights(
    dgates: Spec, dstates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> tuple[Spec, ...]:
    """Shape rule of gru_dw."""
    g, dtype = dgates.shape[2], computed_in(dgates.dtype)
    bias = Spec((g,), dtype)
    return Spec((g, x.shape[2]), dtype), bias, Spec((g, hs.shape[2]), dtype), bias


@primitive(
    infer=_weights,
    cost=lambda y, dgates, dstates, x, hs, h, **a: Cost(
        macs=dgates.size * (x.shape[2] + hs.shape[2]), add=2 * dgates.size
    ),
    outputs=("dw_ih", "db_ih", "dw", "db_hh"),
    phase="backward_weights",
)
def gru_dw(
    dgates: NDArray, dstates: NDArray, x: NDArray, hs: NDArray, h: NDArray, *, backwards: bool
) -> tuple[NDArray, ...]:
    """Return the gradients of the weights and biases, each summed over all steps.

    dw_ih (G, I) and db_ih (G,) are sums of dgates[t]^T x[t] and of dgates[t]; dw (G, H) and db_hh
    (G,) those of dstates[t]^T and the state before, and of dstates[t]; h is the state before the
    first step."""
    old = np.concatenate((hs[1:], h[None]) if backwards else (h[None], hs[:-1]))
    pairs = [y.reshape(-1, y.shape[2]) for y in (dgates, x, dstates, old)]
    dw_ih, dw = (matmul.reference(y.T, read) for y, read in (pairs[:2], pairs[2:]))
    return dw_ih, sum_over(dgates, (0, 1)), dw, sum_over(pairs[2], (0,))


@gru_dw.nonzeros
def _(args: Sequence[Array], results: Sequence[Array], attrs: Attrs) -> list[CountedProduct]:
    dgates, dstates, x, hs, h = args
    reads = (dgates, rows(x)), (dstates, states_before(hs, h, **attrs))
    return [matrix_product(transposed(rows(y)), read) for y, read in reads]


@gru_dw.vjp("dgates", "dstates", "x", "hs", "h")
def _(
    ddw_ih: Value | None, ddb_ih: Value | None, ddw: Value | None, ddb_hh: Value | None,
    dgates: Value, dstates: Value, x: Value, hs: Value, h: Value, specs: tuple[Spec, ...],
    backwards: bool,
) -> tuple[Value, ...]:  # fmt: skip
    ddw = zero(Spec((dstates.shape[2], hs.shape[2]), dstates.dtype)) if ddw is None else ddw
    ddstates, dhs, dh = states_gradients(ddw, dstates, hs, h, backwards)
    ddgates, dx = zero(specs[0]), zero(specs[2])
    if ddw_ih is not None:
        ddgates, dx = matmul(x, swapped(ddw_ih)), matmul(dgates, ddw_ih)
    if ddb_ih is not None:
        ddgates = add(ddgates, ddb_ih)
    if ddb_hh is not None:
        ddstates = add(ddstates, ddb_hh)
    return ddgates, ddstates, dx, dhs, dh
