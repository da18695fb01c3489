"""Plans of a recurrent layer's way through a whole sequence: each is one call of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ...array import NDArray, Spec
from ...threads import WORTHWHILE, share
from . import memory
from . import registry as plans
from .jit import build
from .layout import address, plain
from .recurrent_kernels import WIDE, Layer, backward, forward, tile
from .recurrent_weights import Sums, weights
from .targets import Target

Given: TypeAlias = tuple[bool, ...]
# Takes the first row, the number of tiles, and whether the rest follows.
Tiles: TypeAlias = Callable[[int, int, int], None]


def _shared(count: int, rows: int, macs: int, call: Tiles) -> None:
    """Let threads share `count` rows, in tiles of so many."""
    whole, rest = divmod(count, rows)

    def work(first: int, last: int, worker: int) -> None:
        tiles = min(last, whole) - first
        call(first * rows, tiles, last - first - tiles)

    if macs < WORTHWHILE:
        work(0, whole + (rest > 0), 0)
    else:
        share(whole + (rest > 0), work)


class _Plan:
    """What the kernels of a layer share: shapes, threads, and memory for panels."""

    def __init__(self, target: Target, cell: str, states: Spec, backwards: bool, macs: int) -> None:
        (self.steps, self.batch, self.size), self.dtype = states
        self.rows, self.backwards, self.macs = tile(target), backwards, macs
        self.layer = Layer(cell, self.size, self.batch % self.rows)
        self.lanes = target.lanes(self.dtype)
        self.last = 0 if backwards else -1

    def share(self, call: Tiles) -> None:
        """Let threads share the rows of the batch."""
        _shared(self.batch, self.rows, self.macs, call)

    def way(self, back: bool) -> tuple[int, int, int]:
        """Return the number of steps, the first, and the way to the next: forward or back."""
        down = self.backwards != back
        return self.steps, self.steps - 1 if down else 0, -1 if down else 1

    def panels(self, back: bool) -> Callable[[NDArray], NDArray]:
        """Return a function that lays the weights out as panels, in memory of its own."""
        layer, lanes, size = self.layer, self.lanes, self.size
        line = WIDE * lanes
        many = layer.gates // size
        unit = line if back else layer.block(lanes)
        blocks = -(-size // unit)
        wide: NDArray
        turned: NDArray
        if back:
            wide = np.zeros((layer.gates, blocks * line), self.dtype)
            turned = wide.reshape(layer.gates, blocks, line).transpose(1, 0, 2)
        else:
            wide = np.zeros((many, blocks * unit, size), self.dtype)
            turned = wide.reshape(many, blocks, unit, size).transpose(1, 3, 0, 2)
        inside = wide[:, :size]
        made = np.empty(turned.shape, self.dtype)

        def lay(w: NDArray) -> NDArray:
            inside[...] = w.reshape(inside.shape)
            made[...] = turned
            return made

        return lay


def _alike(*specs: Spec) -> bool:
    return all(s.dtype == specs[0].dtype for s in specs)


@plans.implements("lstm_sequence")
def lstm_sequence(target: Target, *specs: Spec, backwards: bool) -> plans.Kernel | None:
    """Plan an LSTM's way through a sequence."""
    return _lstm(target, specs, backwards, kept=True)


@plans.implements("lstm_states")
def lstm_states(target: Target, *specs: Spec, backwards: bool) -> plans.Kernel | None:
    """Plan an LSTM's way through a sequence of which only the states are wanted."""
    return _lstm(target, specs, backwards, kept=False)


def _lstm(
    target: Target, specs: tuple[Spec, ...], backwards: bool, kept: bool
) -> plans.Kernel | None:
    """Cells and acts are kept for all steps, or written over the last step's."""
    if not _alike(*specs):
        return None
    gates, _, state, *_ = specs
    shape, dtype = (gates.shape[0], *state.shape), gates.dtype
    plan = _Plan(target, "lstm", Spec(shape, dtype), backwards, gates.size * state.shape[1])
    function, lay = build(forward, target, dtype.name, plan.layer), plan.panels(back=False)
    apart = (state.size, 4 * state.size) if kept else (0, 0)
    where = plan.way(back=False)

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        x, bias, h, c, w = map(plain, xs)
        hs, panels = memory.empty(shape, dtype), lay(w)
        cells = memory.empty(shape if kept else state.shape, dtype)
        acts = memory.empty(x.shape if kept else x.shape[1:], dtype)
        pointers = [address(a) for a in (x, bias, h, c, panels, hs, cells, acts)]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where, *apart))
        last = _copy(hs[plan.last])
        return (hs, last, _copy(cells[plan.last]), cells, acts) if kept else (hs, last, cells)

    return run


@plans.implements("rnn_sequence")
def rnn_sequence(
    target: Target, *specs: Spec, nonlinearity: str, backwards: bool
) -> plans.Kernel | None:
    """Plan an Elman network's way through a sequence."""
    if not _alike(*specs):
        return None
    gates = specs[0]
    plan = _Plan(target, nonlinearity, gates, backwards, gates.size * gates.shape[2])
    function, lay = build(forward, target, gates.dtype.name, plan.layer), plan.panels(back=False)
    where, apart = plan.way(back=False), gates.size // plan.steps

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        x, bias, h, w = map(plain, xs)
        hs, panels = memory.empty(x.shape, x.dtype), lay(w)
        pointers = [address(a) for a in (x, bias, h, h, panels, hs, hs, hs)]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where, apart, apart))
        return hs, _copy(hs[plan.last])

    return run


def _copy(x: NDArray) -> NDArray:
    y = memory.empty(x.shape, x.dtype)
    y[...] = x
    return y


@plans.implements("lstm_sequence_dx")
def lstm_sequence_dx(
    target: Target, *specs: Spec, given: Given, backwards: bool
) -> plans.Kernel | None:
    """Plan the way back through a sequence of an LSTM."""
    if not _alike(*specs):
        return None
    acts, cells = specs[:2]
    plan = _Plan(target, "lstm", cells, backwards, acts.size * cells.shape[2])
    function = build(backward, target, acts.dtype.name, plan.layer, given[0])
    lay, where = plan.panels(back=True), plan.way(back=True)

    def run(*xs: NDArray) -> tuple[NDArray, NDArray]:
        acts, cells, c, w, *dys = map(plain, xs)
        dhs, dlast, dcell = _placed(dys, given)
        dh, dc = _start(dlast, c), _start(dcell, c)
        dgates, panels = memory.empty(acts.shape, acts.dtype), lay(w)
        arrays = (acts if dhs is None else dhs, acts, cells, c, panels, dgates, dh, dc)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        return dgates, dc

    return run


@plans.implements("rnn_sequence_dx")
def rnn_sequence_dx(
    target: Target, *specs: Spec, given: Given, nonlinearity: str, backwards: bool
) -> plans.Kernel | None:
    """Plan the way back through a sequence of an Elman network."""
    if not _alike(*specs):
        return None
    states = specs[0]
    plan = _Plan(target, nonlinearity, states, backwards, states.size * states.shape[2])
    function = build(backward, target, states.dtype.name, plan.layer, given[0])
    lay, where = plan.panels(back=True), plan.way(back=True)

    def run(*xs: NDArray) -> NDArray:
        hs, w, *dys = map(plain, xs)
        dhs, dlast = _placed(dys, given)
        dh, panels = _start(dlast, hs), lay(w)
        dgates = memory.empty(hs.shape, hs.dtype)
        arrays = (hs if dhs is None else dhs, hs, hs, hs, panels, dgates, dh, dh)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *where))
        return dgates

    return run


def _placed(dys: list[NDArray], given: Given) -> list[NDArray | None]:
    some = iter(dys)
    return [next(some) if there else None for there in given]


def _start(dy: NDArray | None, like: NDArray) -> NDArray:
    """Return memory that holds the gradient of a last state."""
    y = memory.empty(like.shape[-2:], like.dtype)
    y[...] = 0 if dy is None else dy
    return y


@plans.implements("sequence_dw")
def sequence_dw(
    target: Target, dgates: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> plans.Kernel | None:
    """Plan the gradient of the weights: the sum over all steps but the first, then that one's."""
    if not _alike(dgates, hs, h):
        return None
    (steps, batch, wide), size, dtype = dgates.shape, hs.shape[2], dgates.dtype
    lengths = [batch, (steps - 1) * batch][:steps]
    functions = [build(weights, target, dtype.name, Sums(n, wide, size)) for n in lengths]
    rows, first = tile(target), steps - 1 if backwards else 0
    # Where all steps but the first begin, and the states before them.
    others, before = (0, 1) if backwards else (1, 0)

    def run(dgates: NDArray, hs: NDArray, h: NDArray) -> tuple[NDArray, NDArray]:
        x, states = plain(dgates), plain(hs)
        dw, db = _zeros((wide, size), dtype), _zeros((wide,), dtype)
        pairs = [(x[first], plain(h)), (x[others:], states[before:])][:steps]
        calls = [
            (f, [address(a) for a in (*pair, dw, db)])
            for f, pair in zip(functions, pairs, strict=True)
        ]

        def work(start: int, tiles: int, others: int) -> None:
            for function, pointers in calls:
                function(*pointers, start, tiles, others)

        _shared(wide, rows, dgates.size * size, work)
        return dw, db

    return run


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    y = memory.empty(shape, dtype)
    y[...] = 0
    return y
