"""Recurrent cells without their products: the LSTM's forward and backward, each one sweep over the
gates, and that of Elman's network. Kernels of whole sequences use the same formulas, and those of
gated recurrent units."""

from __future__ import annotations

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.mathematics import sigmoid, sigmoid_gate, tanh
from ..compiler.vectors import Vector
from .sweep import sweep


def cell(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of an LSTM cell: gates, c, h, new cell, gates' values, rows, numbers in a
    state."""
    k = KernelBuilder(target, dtype, ("gates", "c", "h", "cell", "acts"), ("rows", "size"))
    gates, c, h, new_cell, acts, rows, size = k.arguments
    with k.loop(rows) as row:
        start, wide = k.times(row, size), k.times(row, k.times(size, 4))

        def body(index: Integer, some: Integer | None) -> None:
            at, quarters = k.sum(start, index), [k.sum(wide, (size, q), index) for q in range(4)]
            values = []
            for quarter, function in zip(quarters, (sigmoid, sigmoid, tanh, sigmoid), strict=True):
                values.append(function(k, k.load(k.at(gates, quarter), some)))
                k.store(values[-1], k.at(acts, quarter), some)
            i, f, g, o = values
            state = f * k.load(k.at(c, at), some) + i * g
            k.store(state, k.at(new_cell, at), some)
            k.store(tanh(k, state) * o, k.at(h, at), some)

        sweep(k, size, body, unroll=1)
    return k


def cell_slope(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of an LSTM cell's gradients: those of h and the new cell, gates' values, c,
    the new cell, the gradients of the gates and of c, rows, numbers in a state."""
    names = ("dh", "dcell", "acts", "c", "cell", "dgates", "dc")
    k = KernelBuilder(target, dtype, names, ("rows", "size"))
    dh, dcell, acts, c, new_cell, dgates, dc, rows, size = k.arguments
    with k.loop(rows) as row:
        start, wide = k.times(row, size), k.times(row, k.times(size, 4))

        def body(index: Integer, some: Integer | None) -> None:
            at, quarters = k.sum(start, index), [k.sum(wide, (size, q), index) for q in range(4)]
            read = [k.load(k.at(acts, quarter), some) for quarter in quarters]
            states = [k.load(k.at(x, at), some) for x in (dh, dcell, c, new_cell)]
            steep, inner = slopes(k, read, *states)
            for slope, quarter in zip(steep, quarters, strict=True):
                k.store(slope, k.at(dgates, quarter), some)
            k.store(inner, k.at(dc, at), some)

        sweep(k, size, body, unroll=1)
    return k


def slopes(
    k: KernelBuilder, acts: list[Vector], dh: Vector, dcell: Vector, c: Vector, cell: Vector
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


def gated(k: KernelBuilder, sums: list[Vector], h: Vector) -> tuple[list[Vector], Vector]:
    """Return r z n m and the next state of a gated recurrent unit, of its sums: those of r and z,
    that of inputs for n, and m, that of states."""
    r, z = (sigmoid_gate(k, value) for value in sums[:2])
    n = tanh(k, k.fma(r, sums[3], sums[2]))
    return [r, z, n, sums[3]], k.fma(z, h - n, n)


def gated_slopes(
    k: KernelBuilder, acts: list[Vector], dh: Vector, h: Vector
) -> tuple[list[Vector], Vector]:
    """Return the gradients of the gates r z n of inputs, and that of m, see the primitive
    `gru_sequence_dx`; h is the state before."""
    r, z, n, m = acts
    dn = dh * (1.0 - z) * (1.0 - n * n)
    return [dn * m * r * (1.0 - r), dh * (h - n) * z * (1.0 - z), dn], dn * r


def bent(k: KernelBuilder, nonlinearity: str, x: Vector) -> Vector:
    """Return tanh or relu of x."""
    return tanh(k, x) if nonlinearity == "tanh" else k.larger(k.vector(0.0), x)


def elman(target: Target, dtype: str, nonlinearity: str) -> KernelBuilder:
    """Return the kernel of an Elman network's cell: both sums, the state, their size."""
    k = KernelBuilder(target, dtype, ("x", "h", "y"), ("size",))
    x, h, y, size = k.arguments

    def body(index: Integer, some: Integer | None) -> None:
        total = k.load(k.at(x, index), some) + k.load(k.at(h, index), some)
        k.store(bent(k, nonlinearity, total), k.at(y, index), some)

    sweep(k, size, body)
    return k
