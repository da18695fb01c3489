"""Pieces of recurrent networks: sequences cut into steps, and cells without their matrix products.

Shapes: batch N, hidden size H; LSTM gates (N, 4 H) in the order i f g o, as in torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Primitive, Value, primitive
from ..recent import WAYS
from .activation import relu, relu_dx, sigmoid_dx, tanh, tanh_dx
from .elementwise import add, fit, mul, sub
from .reduce import scale
from .rules import broadcast
from .shape import concatenate, free, full, getslice, zero

NONLINEARITIES = {"tanh": (tanh, tanh_dx), "relu": (relu, relu_dx)}


def _stacked(*xs: Spec) -> Spec:
    """Shape rule of stack. ValueError for shapes that differ."""
    if len({x.shape for x in xs}) != 1:
        raise ValueError(f"stack: expected equal shapes, got {[x.shape for x in xs]}")
    return Spec((len(xs), *xs[0].shape), xs[0].dtype)


@primitive(infer=_stacked, cost=free)
def stack(*xs: NDArray) -> NDArray:
    """Return arrays of one shape along a new first axis."""
    return np.stack(xs)


@stack.vjp("xs")
def _(dy: Value) -> tuple[Value, ...]:
    return parts(dy)


def parts(x: Value) -> tuple[Value, ...]:
    """Return the parts of x along its first axis, as a tuple."""
    results = unstack(x.shape[0])(x)
    return results if isinstance(results, tuple) else (results,)


@lru_cache(WAYS)
def unstack(count: int) -> Primitive:
    """Return the primitive that cuts an array into its `count` parts along the first axis.

    It is one call with many results: the gradients of single slices would each fill a whole array.
    Each count is a primitive of its own, cached, since a primitive has a fixed number of outputs.
    """
    outputs = tuple(f"y{i}" for i in range(count))

    def rule(x: Spec) -> tuple[Spec, ...]:
        if x.shape[:1] != (count,):
            raise ValueError(
                f"unstack: expected {count} parts along the first axis, got shape {x.shape}"
            )
        return (Spec(x.shape[1:], x.dtype),) * count

    def reference(x: NDArray) -> tuple[NDArray, ...]:
        """y0, y1, .. = the parts of x along its first axis, without a copy."""
        return tuple(x)

    def derivative(specs: tuple[Spec, ...], **grad_outputs: Value | None) -> Value:
        part = Spec(specs[0].shape[1:], specs[0].dtype)
        incoming = (grad_outputs[f"d{name}"] for name in outputs)
        return stack(*[zero(part) if dy is None else dy for dy in incoming])

    reference.__name__ = "unstack"
    result = primitive(infer=rule, cost=free, outputs=outputs, alias=0)(reference)
    result.vjp("x", reads=("specs", *(f"d{name}" for name in outputs)))(derivative)
    return result


def _elman_cost(y: Spec, x: Spec, h: Spec, *, nonlinearity: str) -> Cost:
    """Cost rule of rnn_cell: an addition and a nonlinearity for each unit."""
    function, _ = NONLINEARITIES[nonlinearity]
    return function.cost(y, y).plus(Cost(add=y.size))


@primitive(infer=lambda x, h, *, nonlinearity: broadcast(x, h), cost=_elman_cost)
def rnn_cell(x: NDArray, h: NDArray, *, nonlinearity: str) -> NDArray:
    """Return f(x + h), f being "tanh" or "relu": the next state of an Elman network (Elman 1990).

    x and h are the projections of the input and of the state, which a linear layer each computes.
    """
    function, _ = NONLINEARITIES[nonlinearity]
    return np.asarray(function.reference(x + h))


@rnn_cell.vjp("x", "h")
def _(dy: Value, y: Value, specs: tuple[Spec, ...], nonlinearity: str) -> tuple[Value, Value]:
    _, slope = NONLINEARITIES[nonlinearity]
    dx = slope(dy, y)
    return fit(dx, specs[0]), fit(dx, specs[1])


def _quarters(x: NDArray) -> list[NDArray]:
    """Return the four blocks of columns of an array, as views."""
    n = x.shape[1] // 4
    return [x[:, i * n : (i + 1) * n] for i in range(4)]


def _cell(gates: Spec, c: Spec) -> tuple[Spec, Spec, Spec]:
    """Shape rule of lstm_cell: the state, the cell and the activated gates."""
    if len(c.shape) != 2 or gates.shape != (c.shape[0], 4 * c.shape[1]):
        raise ValueError(
            f"lstm_cell: expected gates (N, 4 H) and cells (N, H), got {gates.shape} and {c.shape}"
        )
    return c, c, gates


def _cell_cost(y: tuple[Spec, ...], gates: Spec, c: Spec) -> Cost:
    """Cost rule of lstm_cell, see there."""
    return Cost(exp=5 * c.size, add=4 * c.size, div=3 * c.size, mul=3 * c.size)


@primitive(infer=_cell, cost=_cell_cost, outputs=("h", "cell", "acts"))
def lstm_cell(gates: NDArray, c: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return the next state h, the next cell and the activated gates of an LSTM.

    cell = f c + i g and h = o tanh(cell), where i, f, o = sigmoid and g = tanh of the quarters i f
    g o of gates (N, 4 H); c (N, H) (Hochreiter and Schmidhuber 1997, Gers et al. 2000). `acts` (N,
    4 H) holds i f g o for the derivative. Counted per cell: three sigmoids of an exp, an addition
    and a division each; two tanh; three products and a sum."""
    acts = np.empty(gates.shape, gates.dtype)
    i, f, g, o = _quarters(acts)
    # One negation serves three sigmoids, 1 / (1 + e^-x); the quarter of tanh is turned back below.
    np.negative(gates, out=acts)
    with np.errstate(over="ignore"):  # e^-x = inf gives the right 0
        for y in (acts[:, : 2 * c.shape[1]], o):
            np.exp(y, out=y)
            y += 1
            np.reciprocal(y, out=y)
    np.negative(g, out=g)
    np.tanh(g, out=g)
    cell = np.multiply(f, c, out=np.empty(c.shape, c.dtype))
    cell += i * g
    h = np.tanh(cell)
    h *= o
    return h, cell, acts


@lstm_cell.vjp("gates", "c")
def _(
    dh: Value | None, dcell: Value | None, dacts: Value | None, acts: Value, c: Value, cell: Value,
    specs: tuple[Spec, ...],
) -> tuple[Value, Value]:  # fmt: skip
    dh = zero(specs[1]) if dh is None else dh
    dcell = zero(specs[1]) if dcell is None else dcell
    return cell_gradients(dh, dcell, dacts, acts, c, cell)


def cell_gradients(
    dh: Value, dcell: Value, dacts: Value | None, acts: Value, c: Value, cell: Value
) -> tuple[Value, Value]:
    """Return the gradients of gates and c as `lstm_cell_dx` does, plus what a gradient of acts
    adds."""
    dgates, dc = lstm_cell_dx(dh, dcell, acts, c, cell)
    if dacts is not None:
        steep = [
            (tanh_dx if i == 2 else sigmoid_dx)(dy, y)
            for i, (dy, y) in enumerate(zip(quarters(dacts), quarters(acts), strict=True))
        ]
        dgates = add(dgates, concatenate(*steep, axis=1))
    return dgates, dc


def quarters(x: Value) -> list[Value]:
    """Return the four blocks of columns of x, recorded where x is."""
    rows, n = x.shape[0], x.shape[1] // 4
    return [getslice(x, slices=((0, rows, 1), (i * n, (i + 1) * n, 1))) for i in range(4)]


def _cell_dx_cost(dx: tuple[Spec, ...], dh: Spec, *specs: Spec) -> Cost:
    """Cost rule of lstm_cell_dx: the operations of its two formulas for each cell."""
    return Cost(exp=dh.size, mul=16 * dh.size, add=6 * dh.size)


@primitive(
    infer=lambda dh, dcell, acts, c, cell: (acts, c), cost=_cell_dx_cost, outputs=("dgates", "dc")
)
def lstm_cell_dx(
    dh: NDArray, dcell: NDArray, acts: NDArray, c: NDArray, cell: NDArray
) -> tuple[NDArray, NDArray]:
    """Return dgates (N, 4 H) and dc (N, H).

    With t = tanh(cell) and m = dcell + dh o (1 - t^2): dc = m f and dgates = (m g i (1 - i), m c f
    (1 - f), m i (1 - g^2), dh t o (1 - o))."""
    i, f, g, o = _quarters(acts)
    t = np.tanh(cell)
    m = t * t
    np.subtract(1, m, out=m)
    m *= o
    m *= dh
    m += dcell
    dgates = np.subtract(1, acts, out=np.empty(acts.shape, acts.dtype))
    dgates *= acts
    di, df, dg, do = _quarters(dgates)
    di *= g
    di *= m
    df *= c
    df *= m
    np.multiply(g, g, out=dg)
    np.subtract(1, dg, out=dg)
    dg *= i
    dg *= m
    do *= t
    do *= dh
    m *= f
    return dgates, m


@lstm_cell_dx.vjp("dh", "dcell", "acts", "c", "cell")
def _(
    ddgates: Value | None, ddc: Value | None, dh: Value, dcell: Value, acts: Value, c: Value,
    cell: Value, specs: tuple[Spec, ...],
) -> tuple[Value, ...]:  # fmt: skip
    """The derivative of each product in lstm_cell_dx, s(y) = y (1 - y) being the slope of y."""
    i, f, g, o = quarters(acts)
    # The incoming gradients u of the four quarters, and v of dc.
    ui, uf, ug, uo = quarters(zero(specs[2]) if ddgates is None else ddgates)
    v = zero(specs[3]) if ddc is None else ddc
    t = tanh(cell)
    q = tanh_dx(full(shape=t.shape, dtype=t.dtype, value=1.0), t)
    m = add(dcell, mul(mul(dh, o), q))
    si_ui, sf_uf, so_uo = sigmoid_dx(ui, i), sigmoid_dx(uf, f), sigmoid_dx(uo, o)
    sg_ug = tanh_dx(ug, g)
    dm = add(add(mul(si_ui, g), mul(sf_uf, c)), add(mul(sg_ug, i), mul(v, f)))
    one = full(shape=(), dtype=t.dtype, value=1.0)

    def bend(y: Value) -> Value:
        return sub(one, add(y, y))

    dacts = (
        mul(m, add(mul(mul(ui, g), bend(i)), sg_ug)),
        mul(m, add(mul(mul(uf, c), bend(f)), v)),
        mul(m, sub(si_ui, scale(mul(mul(ug, i), g), factor=2.0))),
        mul(dh, add(mul(dm, q), mul(mul(uo, t), bend(o)))),
    )
    ddh = add(mul(mul(dm, o), q), mul(so_uo, t))
    dt = sub(mul(dh, so_uo), scale(mul(mul(dm, mul(dh, o)), t), factor=2.0))
    return ddh, dm, concatenate(*dacts, axis=1), mul(sf_uf, m), mul(dt, q)
