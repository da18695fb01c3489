"""A matrix times a vector, which memory bounds: as many rows as a vector has lanes are read side by
side, with a sum for each in a register, and memory is asked for ahead.

At the end the sums are transposed, so that adding vectors in pairs adds up all lanes of each.
"""

from __future__ import annotations

from ..compiler.isa.targets import Target
from ..compiler.language import KernelBuilder, pieces
from ..compiler.transpose import turn

AHEAD = 1024  # bytes of a row that are asked for before they are read


def times_vector(target: Target, dtype: str, rows: int, inner: int, biased: bool) -> KernelBuilder:
    """Return the kernel of y = w x, plus a bias if there is one: x (inner,), w (rows, inner), the
    bias (rows,), y (rows,). Sums run over every vector's lanes and are then added in pairs."""
    k = KernelBuilder(target, dtype, ("x", "w", "bias", "y"))
    x, w, bias, y = k.arguments
    for first, times, size in pieces(rows, k.lanes):
        with k.loop(times) as i:
            row = k.sum((i, k.lanes), first)
            start = k.at(w, (row, inner))
            sums = [k.variable() for _ in range(size)]
            for begin, steps, some in pieces(inner, k.lanes):
                with k.loop(steps) as j:
                    index = k.sum((j, k.lanes), begin)
                    number = k.load(k.at(x, index), some)
                    for r, total in enumerate(sums):
                        at = k.at(start, index, r * inner)
                        k.prefetch(k.at(at, AHEAD // k.dtype.itemsize))
                        total.set(k.fma(k.load(at, some), number, total.get()))
            lanes = [total.get() for total in sums]
            parts = turn(k, lanes + [k.vector(0.0)] * (k.lanes - size))
            while len(parts) > 1:
                parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
            result = parts[0]
            if biased:
                result = result + k.load(k.at(bias, row), size)
            k.store(result, k.at(y, row), size)
    return k
