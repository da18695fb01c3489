"""Cells without their products: the LSTM's forward and backward, each in one pass over the gates,
and that of Elman's network."""

from __future__ import annotations

import numpy as np

from ...array import NDArray, Spec
from . import memory
from . import registry as plans
from .flat import sweep
from .jit import build
from .language import Integer, Kernel, Vector
from .layout import address, plain
from .mathematics import sigmoid, tanh
from .targets import Target


def cell(target: Target, dtype: str) -> Kernel:
    """Return the kernel of an LSTM cell: gates, c, h, new cell, gates' values, rows, numbers in a
    state."""
    k = Kernel(target, dtype, ("gates", "c", "h", "cell", "acts"), ("rows", "size"))
    gates, c, h, made, acts, rows, size = k.arguments
    with k.loop(rows) as row:
        start, wide = k.times(row, size), k.times(row, k.times(size, 4))

        def body(place: Integer, some: Integer | None) -> None:
            at, quarters = k.sum(start, place), [k.sum(wide, (size, q), place) for q in range(4)]
            values = []
            for quarter, function in zip(quarters, (sigmoid, sigmoid, tanh, sigmoid), strict=True):
                values.append(function(k, k.load(k.at(gates, quarter), some)))
                k.store(values[-1], k.at(acts, quarter), some)
            i, f, g, o = values
            state = f * k.load(k.at(c, at), some) + i * g
            k.store(state, k.at(made, at), some)
            k.store(tanh(k, state) * o, k.at(h, at), some)

        sweep(k, size, body, unroll=1)
    return k


def cell_slope(target: Target, dtype: str) -> Kernel:
    """Return the kernel of an LSTM cell's gradients: those of h and the new cell, gates' values, c,
    the new cell, the gradients of the gates and of c, rows, numbers in a state."""
    names = ("dh", "dcell", "acts", "c", "cell", "dgates", "dc")
    k = Kernel(target, dtype, names, ("rows", "size"))
    dh, dcell, acts, c, made, dgates, dc, rows, size = k.arguments
    with k.loop(rows) as row:
        start, wide = k.times(row, size), k.times(row, k.times(size, 4))

        def body(place: Integer, some: Integer | None) -> None:
            at, quarters = k.sum(start, place), [k.sum(wide, (size, q), place) for q in range(4)]
            read = [k.load(k.at(acts, quarter), some) for quarter in quarters]
            states = [k.load(k.at(x, at), some) for x in (dh, dcell, c, made)]
            steep, inner = slopes(k, read, *states)
            for slope, quarter in zip(steep, quarters, strict=True):
                k.store(slope, k.at(dgates, quarter), some)
            k.store(inner, k.at(dc, at), some)

        sweep(k, size, body, unroll=1)
    return k


def slopes(
    k: Kernel, acts: list[Vector], dh: Vector, dcell: Vector, c: Vector, cell: Vector
) -> tuple[list[Vector], Vector]:
    """Return the gradients of the gates and of c, see the primitive `lstm_cell_dx`."""
    i, f, g, o = acts
    t = tanh(k, cell)
    m = (1.0 - t * t) * o * dh + dcell
    dgates = [
        i * (1.0 - i) * g * m,
        f * (1.0 - f) * c * m,
        (1.0 - g * g) * i * m,
        o * (1.0 - o) * t * dh,
    ]
    return dgates, m * f


def bent(k: Kernel, nonlinearity: str, x: Vector) -> Vector:
    """Return tanh or relu of x."""
    return tanh(k, x) if nonlinearity == "tanh" else k.larger(k.vector(0.0), x)


def elman(target: Target, dtype: str, nonlinearity: str) -> Kernel:
    """Return the kernel of an Elman network's cell: both sums, the state, their size."""
    k = Kernel(target, dtype, ("x", "h", "y"), ("size",))
    x, h, y, size = k.arguments

    def body(place: Integer, some: Integer | None) -> None:
        total = k.load(k.at(x, place), some) + k.load(k.at(h, place), some)
        k.store(bent(k, nonlinearity, total), k.at(y, place), some)

    sweep(k, size, body)
    return k


@plans.implements("rnn_cell")
def rnn_cell(target: Target, x: Spec, h: Spec, *, nonlinearity: str) -> plans.Kernel | None:
    """Plan the cell of an Elman network."""
    if x != h:
        return None
    function, size = build(elman, target, x.dtype.name, nonlinearity), x.size

    def run(x: NDArray, h: NDArray) -> NDArray:
        sums, y = (plain(x), plain(h)), memory.empty(x.shape, x.dtype)
        function(*[address(a) for a in (*sums, y)], size)
        return y

    return plans.native(run)


@plans.implements("lstm_cell")
def lstm_cell(target: Target, gates: Spec, c: Spec) -> plans.Kernel | None:
    """Plan an LSTM cell."""
    if gates.dtype != c.dtype:
        return None
    function = build(cell, target, c.dtype.name)
    rows, size = c.shape

    def run(gates: NDArray, c: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        x, old = plain(gates), plain(c)
        made = [memory.empty(shape, x.dtype) for shape in (old.shape, old.shape, x.shape)]
        function(*[address(a) for a in (x, old, *made)], rows, size)
        return made[0], made[1], made[2]

    return plans.native(run)


@plans.implements("lstm_cell_dx")
def lstm_cell_dx(target: Target, *specs: Spec) -> plans.Kernel | None:
    """Plan the gradients of an LSTM cell."""
    if any(s.dtype != specs[0].dtype for s in specs):
        return None
    function = build(cell_slope, target, specs[0].dtype.name)
    wide, (rows, size) = specs[2].shape, specs[3].shape

    def run(*xs: NDArray) -> tuple[NDArray, NDArray]:
        given = [plain(x) for x in xs]
        dgates, dc = (memory.empty(shape, given[0].dtype) for shape in (wide, (rows, size)))
        function(*[address(a) for a in (*given, dgates, dc)], rows, size)
        return dgates, dc

    return plans.native(run)


@plans.implements("stack")
def stack(target: Target, *specs: Spec) -> plans.Kernel | None:
    """Plan a stack of arrays along a new first axis: NumPy's, in memory that is used again."""
    first = specs[0]
    if any(s != first for s in specs) or first.size * len(specs) < 1 << 14:
        return None
    shape, dtype = (len(specs), *first.shape), first.dtype

    def run(*xs: NDArray) -> NDArray:
        return np.stack(xs, out=memory.empty(shape, dtype))

    return run
