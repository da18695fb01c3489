"""Cells without their products: plans for one step of a recurrent network."""

from __future__ import annotations

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.recurrent_cell import cell, cell_slope, elman
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain


@implements("rnn_cell")
def rnn_cell(target: Target, x: Spec, h: Spec, *, nonlinearity: str) -> Executable | None:
    """Plan the cell of an Elman network."""
    if x != h:
        return None
    function, size = build(elman, target, x.dtype.name, nonlinearity), x.size

    def run(x: NDArray, h: NDArray) -> NDArray:
        sums, y = (plain(x), plain(h)), memory.empty(x.shape, x.dtype)
        function(*[address(a) for a in (*sums, y)], size)
        return y

    return Executable(run, native=True)


@implements("lstm_cell")
def lstm_cell(target: Target, gates: Spec, c: Spec) -> Executable | None:
    """Plan an LSTM cell."""
    if gates.dtype != c.dtype:
        return None
    function = build(cell, target, c.dtype.name)
    rows, size = c.shape

    def run(gates: NDArray, c: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        x, old = plain(gates), plain(c)
        outputs = [memory.empty(shape, x.dtype) for shape in (old.shape, old.shape, x.shape)]
        function(*[address(a) for a in (x, old, *outputs)], rows, size)
        return outputs[0], outputs[1], outputs[2]

    return Executable(run, native=True)


@implements("lstm_cell_dx")
def lstm_cell_dx(target: Target, *specs: Spec) -> Executable | None:
    """Plan the gradients of an LSTM cell."""
    if any(s.dtype != specs[0].dtype for s in specs):
        return None
    function = build(cell_slope, target, specs[0].dtype.name)
    wide, (rows, size) = specs[2].shape, specs[3].shape

    def run(*xs: NDArray) -> tuple[NDArray, NDArray]:
        inputs = [plain(x) for x in xs]
        dgates, dc = (memory.empty(shape, inputs[0].dtype) for shape in (wide, (rows, size)))
        function(*[address(a) for a in (*inputs, dgates, dc)], rows, size)
        return dgates, dc

    return Executable(run, native=True)


@implements("stack")
def stack(target: Target, *specs: Spec) -> Executable | None:
    """Plan a stack of arrays along a new first axis: NumPy's, in memory that is used again."""
    first = specs[0]
    if any(s != first for s in specs) or first.size * len(specs) < 1 << 14:
        return None
    shape, dtype = (len(specs), *first.shape), first.dtype

    def run(*xs: NDArray) -> NDArray:
        return np.stack(xs, out=memory.empty(shape, dtype))

    return Executable(run)
