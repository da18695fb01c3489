"""Plans of a recurrent layer's way through a whole sequence: each is one call of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ....array import NDArray, Spec
from ....products import multiply
from ....summation import sum_over
from ....threads import WORTHWHILE, share
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.recurrent import WIDE, RecurrentLayer, backward, forward, tile
from ..kernels.recurrent_gru import backward as gru_backward
from ..kernels.recurrent_gru import forward as gru_forward
from ..kernels.recurrent_weights import Sums, weights
from ..registry import find, implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain

Flags: TypeAlias = tuple[bool, ...]
# Takes the first row, the number of tiles, and whether the rest follows.
Tiles: TypeAlias = Callable[[int, int, int], None]
# Takes inputs, both weights, the kernel's other arrays, and distances of cells and acts.
Forward: TypeAlias = Callable[..., None]


def _shared(count: int, rows: int, macs: int, call: Tiles) -> None:
    """Let threads share `count` rows, in tiles of `rows`."""
    whole, rest = divmod(count, rows)

    def work(first: int, last: int, worker: int) -> None:
        tiles = min(last, whole) - first
        call(first * rows, tiles, last - first - tiles)

    if macs < WORTHWHILE:
        work(0, whole + (rest > 0), 0)
    else:
        share(whole + (rest > 0), work)


class _SequencePlan:
    """What the kernels of a layer share: shapes, threads, and memory for panels."""

    def __init__(self, target: Target, cell: str, states: Spec, backwards: bool, macs: int) -> None:
        (self.steps, self.batch, self.size), self.dtype = states
        self.rows, self.backwards, self.macs = tile(target), backwards, macs
        self.target, self.lanes = target, target.lanes(self.dtype)
        self.layer = RecurrentLayer(cell, self.size, self.batch % self.rows)
        self.last = 0 if backwards else -1

    def share(self, call: Tiles) -> None:
        """Let threads share the rows of the batch."""
        _shared(self.batch, self.rows, self.macs, call)

    def way(self, back: bool) -> tuple[int, int, int]:
        """Return the number of steps, the first one, and the step to the next (1 or -1), of the
        pass forward or `back`."""
        down = self.backwards != back
        return self.steps, self.steps - 1 if down else 0, -1 if down else 1

    def forward(self, width: int) -> Forward:
        """Return the function that calls the kernel for inputs of a width, in either layout of
        `rows_of`."""
        lay, where, kernels = self.panels(width), self.way(back=False), {}

        def call(x: NDArray, w_ih: NDArray, w: NDArray, arrays: list[NDArray], *apart: int) -> None:
            x, row, step = rows_of(x)
            if row not in kernels:
                layer = self.layer._replace(inputs=width, apart=row)
                kernels[row] = build(forward, self.target, self.dtype.name, layer)
            bias, h, c, *outputs = arrays
            pointers = [address(a) for a in (x, bias, h, c, lay(w_ih, w), *outputs)]
            self.share(
                lambda *rows: kernels[row](*pointers, self.batch, *rows, *where, step, *apart)
            )

        return call

    def panels(self, width: int) -> Callable[[NDArray, NDArray], NDArray]:
        """Return a function that lays both weights out as panels, in memory of its own."""
        many, unit = self.layer.gates // self.size, self.layer.block(self.lanes)
        blocks = -(-self.size // unit)
        wide = np.zeros((many, blocks * unit, width + self.size), self.dtype)
        turned = wide.reshape(many, blocks, unit, -1).transpose(1, 3, 0, 2)
        # Panels are rewritten in each call, since weights change; memory is the plan's own.
        inside, packed = wide[:, : self.size], memory.empty(turned.shape, self.dtype, lasting=True)

        def lay(w_ih: NDArray, w: NDArray) -> NDArray:
            inside[..., :width] = w_ih.reshape(many, self.size, width)
            inside[..., width:] = w.reshape(many, self.size, self.size)
            packed[...] = turned
            return packed

        return lay

    def panels_back(self) -> Callable[[NDArray], NDArray]:
        """Return a function that lays the weights of the states out for the way back."""
        gates, line = self.layer.gates, WIDE * self.lanes
        blocks = -(-self.size // line)
        wide = np.zeros((gates, blocks * line), self.dtype)
        turned = wide.reshape(gates, blocks, line).transpose(1, 0, 2)
        packed = memory.empty(turned.shape, self.dtype, lasting=True)

        def lay(w: NDArray) -> NDArray:
            wide[:, : self.size] = w
            packed[...] = turned
            return packed

        return lay


def rows_of(x: NDArray) -> tuple[NDArray, int, int]:
    """Return inputs (T, N, I) and the numbers from one row and one step to the next. They may lie
    as (N, T, I), too."""
    steps, batch, width = x.shape
    if not x.flags.c_contiguous and x.transpose(1, 0, 2).flags.c_contiguous:
        return x, steps * width, width
    return plain(x), width, batch * width


def _alike(*specs: Spec) -> bool:
    return all(s.dtype == specs[0].dtype for s in specs)


@implements("lstm_sequence")
def lstm_sequence(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass over a sequence."""
    return _lstm(target, specs, backwards, all_steps=True)


@implements("lstm_states")
def lstm_states(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass of which only the states are wanted."""
    return _lstm(target, specs, backwards, all_steps=False)


def _lstm(
    target: Target, specs: tuple[Spec, ...], backwards: bool, all_steps: bool
) -> Executable | None:
    """Plan the forward pass; cells and acts are kept for `all_steps`, or overwritten in each."""
    if not _alike(*specs):
        return None
    x, w_ih, _, state, *_ = specs
    dtype, gates = x.dtype, (*x.shape[:2], w_ih.shape[0])
    shape = (*x.shape[:2], state.shape[1])
    macs = prod(gates) * (x.shape[2] + state.shape[1])
    plan = _SequencePlan(target, "lstm", Spec(shape, dtype), backwards, macs)
    call = plan.forward(x.shape[2])
    apart = (state.size, 4 * state.size) if all_steps else (0, 0)

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, bias, h, c, w = map(plain, xs)
        hs = memory.empty(shape, dtype)
        cells = memory.empty(shape if all_steps else state.shape, dtype)
        acts = memory.empty(gates if all_steps else gates[1:], dtype)
        call(x, w_ih, w, [bias, h, c, hs, cells, acts], *apart)
        last = _copy(hs[plan.last])
        return (hs, last, _copy(cells[plan.last]), cells, acts) if all_steps else (hs, last, cells)

    return Executable(run)


@implements("gru_sequence")
def gru_sequence(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan a GRU's forward pass over a sequence."""
    return _gru(target, specs, backwards, all_steps=True)


@implements("gru_states")
def gru_states(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan a GRU's forward pass of which only the states are wanted."""
    return _gru(target, specs, backwards, all_steps=False)


def _gru(
    target: Target, specs: tuple[Spec, ...], backwards: bool, all_steps: bool
) -> Executable | None:
    """Plan the forward pass: the product of the inputs of all steps, then the steps."""
    if not _alike(*specs):
        return None
    x, w_ih, b_ih, *_ = specs
    projection = find(target, "linear", (x, w_ih, b_ih), {})
    gates = Spec((*x.shape[:2], w_ih.shape[0]), x.dtype)
    steps = gru_steps(target, gates, backwards, all_steps)

    def run(x: NDArray, w_ih: NDArray, b_ih: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        gates = projection(x, w_ih, b_ih) if projection else multiply(x, w_ih.T) + b_ih
        found: tuple[NDArray, ...] = steps.run(gates, *xs)
        return found

    return Executable(run)


def gru_steps(target: Target, gates: Spec, backwards: bool, all_steps: bool) -> Executable:
    """Plan a GRU's steps: a function of the gates of inputs (T, N, 3 H), h, w and b_hh."""
    (steps, batch, many), dtype = gates
    size, wide = many // 3, 4 * many // 3
    shape = steps, batch, size
    plan = _SequencePlan(target, "gru", Spec(shape, dtype), backwards, prod(shape) * many)
    function = build(gru_forward, target, dtype.name, plan.layer)
    lay, where = plan.panels(0), plan.way(back=False)
    none = np.empty((many, 0), dtype)

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        gates, h, w, b_hh = map(plain, xs)
        hs, acts = memory.empty(shape, dtype), memory.empty((*shape[:2], wide), dtype)
        pointers = [address(a) for a in (gates, b_hh, h, lay(none, w), hs, acts)]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        last = _copy(hs[plan.last])
        return (hs, last, acts) if all_steps else (hs, last)

    return Executable(run)


@implements("rnn_sequence")
def rnn_sequence(
    target: Target, *specs: Spec, nonlinearity: str, backwards: bool
) -> Executable | None:
    """Plan an Elman network's forward pass over a sequence."""
    if not _alike(*specs):
        return None
    x, _, _, state, *_ = specs
    states = Spec((*x.shape[:2], state.shape[1]), x.dtype)
    macs = states.size * (x.shape[2] + state.shape[1])
    plan = _SequencePlan(target, nonlinearity, states, backwards, macs)
    call = plan.forward(x.shape[2])

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, bias, h, w = map(plain, xs)
        hs = memory.empty(*states)
        call(x, w_ih, w, [bias, h, h, hs, hs, hs], state.size, state.size)
        return hs, _copy(hs[plan.last])

    return Executable(run)


def _copy(x: NDArray) -> NDArray:
    y = memory.empty(x.shape, x.dtype)
    y[...] = x
    return y


@implements("lstm_sequence_dx")
def lstm_sequence_dx(
    target: Target, *specs: Spec, present: Flags, backwards: bool
) -> Executable | None:
    """Plan an LSTM's backward pass over a sequence."""
    if not _alike(*specs):
        return None
    acts, cells = specs[:2]
    plan = _SequencePlan(target, "lstm", cells, backwards, acts.size * cells.shape[2])
    function = build(backward, target, acts.dtype.name, plan.layer, present[0])
    lay, where = plan.panels_back(), plan.way(back=True)

    def run(*xs: NDArray) -> tuple[NDArray, NDArray]:
        acts, cells, c, w, *grad_outputs = map(plain, xs)
        dhs, dlast, dcell = placed(grad_outputs, present)
        dh, dc = _start(dlast, c), _start(dcell, c)
        dgates, panels = memory.empty(acts.shape, acts.dtype), lay(w)
        arrays = (acts if dhs is None else dhs, acts, cells, c, panels, dgates, dh, dc)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        return dgates, dc

    return Executable(run)


@implements("gru_sequence_dx")
def gru_sequence_dx(
    target: Target, *specs: Spec, present: Flags, backwards: bool
) -> Executable | None:
    """Plan a GRU's backward pass over a sequence."""
    if not _alike(*specs):
        return None
    states, wide = specs[1], (*specs[1].shape[:2], 3 * specs[1].shape[2])
    plan = _SequencePlan(target, "gru", states, backwards, 3 * states.size * states.shape[2])
    function = build(gru_backward, target, states.dtype.name, plan.layer, present[0])
    lay, where = plan.panels_back(), plan.way(back=True)

    def run(*xs: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        acts, hs, h, w, *grad_outputs = map(plain, xs)
        dhs, dlast = placed(grad_outputs, present)
        dh, panels = _start(dlast, h), lay(w)
        dgates, dstates = (memory.empty(wide, hs.dtype) for _ in range(2))
        arrays = (acts if dhs is None else dhs, acts, hs, h, panels, dgates, dstates, dh)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        return dgates, dstates, dh

    return Executable(run)


@implements("rnn_sequence_dx")
def rnn_sequence_dx(
    target: Target, *specs: Spec, present: Flags, nonlinearity: str, backwards: bool
) -> Executable | None:
    """Plan an Elman network's backward pass over a sequence."""
    if not _alike(*specs):
        return None
    states = specs[0]
    plan = _SequencePlan(target, nonlinearity, states, backwards, states.size * states.shape[2])
    function = build(backward, target, states.dtype.name, plan.layer, present[0])
    lay, where = plan.panels_back(), plan.way(back=True)

    def run(*xs: NDArray) -> NDArray:
        hs, w, *grad_outputs = map(plain, xs)
        dhs, dlast = placed(grad_outputs, present)
        dh, panels = _start(dlast, hs), lay(w)
        dgates = memory.empty(hs.shape, hs.dtype)
        arrays = (hs if dhs is None else dhs, hs, hs, hs, panels, dgates, dh, dh)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        return dgates

    return Executable(run)


def placed(grad_outputs: list[NDArray], present: Flags) -> list[NDArray | None]:
    """Return gradients at their places, None for those that are absent."""
    some = iter(grad_outputs)
    return [next(some) if there else None for there in present]


def _start(dy: NDArray | None, like: NDArray) -> NDArray:
    """Return memory that holds the gradient of a last state."""
    y = memory.empty(like.shape[-2:], like.dtype)
    y[...] = 0 if dy is None else dy
    return y


@implements("sequence_dw")
def sequence_dw(
    target: Target, dgates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of the weights and the bias."""
    if not _alike(dgates, x, hs, h):
        return None
    (steps, batch, wide), size, dtype = dgates.shape, hs.shape[2], dgates.dtype
    width, kernels = x.shape[2], {}
    where, macs = _order(steps, backwards), dgates.size * (width + size)

    def run(dgates: NDArray, x: NDArray, *states: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        x, row, step = rows_of(x)
        if row not in kernels:
            sums = Sums(batch, wide, size, width, row)
            kernels[row] = build(weights, target, dtype.name, sums)
        dw_ih, dw, db = (_zeros(s, dtype) for s in ((wide, width), (wide, size), (wide,)))
        arrays = (plain(dgates), x, *map(plain, states), dw_ih, dw, db)
        pointers = [address(a) for a in arrays]
        _shared(wide, rows, macs, lambda *some: kernels[row](*pointers, *some, *where, step))
        return dw_ih, dw, db

    rows = tile(target)
    return Executable(run)


def _order(steps: int, backwards: bool) -> tuple[int, int, int]:
    """Return the number of steps, the first one, and how far it is to the next."""
    return (steps, steps - 1, -1) if backwards else (steps, 0, 1)


@implements("gru_dw")
def gru_dw(
    target: Target, dgates: Spec, dstates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of a GRU's weights and biases. Those of states are those of a layer whose
    inputs have no numbers."""
    if not _alike(dgates, dstates, x, hs, h):
        return None
    (steps, batch, wide), size, dtype = dgates.shape, hs.shape[2], dgates.dtype
    function = build(weights, target, dtype.name, Sums(batch, wide, size, 0, 0))
    where, tiles, macs = _order(steps, backwards), tile(target), dgates.size * size
    rows, width = steps * batch, x.shape[2]
    product = find(target, "matmul", (Spec((wide, rows), dtype), Spec((rows, width), dtype)), {})
    total = find(target, "sum_to", (dgates,), {"shape": (wide,)})

    def run(dgates: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        dgates, dstates, x, hs, h = map(plain, (dgates, *xs))
        dw, db = _zeros((wide, size), dtype), _zeros((wide,), dtype)
        pointers = [address(a) for a in (dstates, dstates, hs, h, dw, dw, db)]
        _shared(wide, tiles, macs, lambda *some: function(*pointers, *some, *where, 0))
        pair = dgates.reshape(rows, wide).T, x.reshape(rows, width)
        dw_ih = product(*pair) if product else multiply(*pair)
        return dw_ih, total(dgates) if total else sum_over(dgates, (0, 1)), dw, db

    return Executable(run)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    y = memory.empty(shape, dtype)
    y[...] = 0
    return y
