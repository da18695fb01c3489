"""A layer of a recurrent network through a whole sequence, forward and backward, in one call.

Rows of the batch do not depend on one another: a tile of rows is multiplied by a panel of weights
with all sums in registers, and the cells follow at once. Panels lie as [block][k][4][lanes]: the
four gates of as many units as a vector holds, or four vectors of units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...array import NDArray, Spec
from ...threads import WORTHWHILE, share
from . import memory
from . import registry as plans
from .flat import sweep
from .jit import build
from .language import Integer, Kernel, Vector, pieces
from .layout import address, plain
from .mathematics import sigmoid, tanh
from .recurrent import slopes
from .targets import Target

WIDE = 4  # vectors of a panel
UNROLL = 4
DEPTH = 128  # rows of a panel that are used by all tiles in turn, while the first level holds them


class Layer(NamedTuple):
    """A kind of cell (lstm, tanh or relu), the numbers in its state, and the rows of the batch that
    fill no whole tile."""

    cell: str
    size: int
    rest: int

    @property
    def gates(self) -> int:
        """Numbers in the gates of a row."""
        return self.size * (4 if self.cell == "lstm" else 1)

    def block(self, lanes: int) -> int:
        """Units of a panel in the forward product."""
        return lanes if self.cell == "lstm" else WIDE * lanes


def tile(target: Target) -> int:
    """Return how many rows are multiplied together: their sums, a row of a panel and a number of
    the state fit in the registers."""
    return (target.registers - 2 * WIDE) // WIDE


class _Rows(NamedTuple):
    """The rows of a call: whole tiles from the first row on, and whether the rest follows."""

    k: Kernel
    layer: Layer
    first: Integer
    tiles: Integer
    others: Integer

    def each_tile(self, body: Callable[[Integer, int], None]) -> None:
        """Write down `body` for each tile: its first row and its number of rows."""
        k, rows = self.k, tile(self.k.target)
        with k.where(k.positive(self.tiles)), k.loop(self.tiles) as i:
            body(k.sum(self.first, (i, rows)), rows)
        if self.layer.rest:
            with k.where(k.positive(self.others)):
                body(k.sum(self.first, (self.tiles, rows)), self.layer.rest)

    def count(self) -> Integer:
        """Return how many there are."""
        return self.k.sum((self.tiles, tile(self.k.target)), (self.others, self.layer.rest))


def _products(k: Kernel, x: Any, apart: int, panel: Any, depth: int, sums: list[list[Any]]) -> None:
    """Add to sums[r][v] the products of `depth` numbers of row r, rows being so far apart, with
    the columns v of a panel."""
    line = WIDE * k.lanes
    for start, count, steps in pieces(depth, UNROLL):
        with k.loop(count) as i:
            for j in range(start, start + steps):
                columns = [
                    k.load(k.at(panel, (i, steps * line), j * line + v * k.lanes))
                    for v in range(len(sums[0]))
                ]
                for r, row in enumerate(sums):
                    number = k.broadcast(k.at(x, (i, steps), r * apart + j))
                    for total, column in zip(row, columns, strict=True):
                        total.set(k.fma(number, column, total.get()))


def _vectors(k: Kernel, units: int, apart: int) -> list[tuple[int, int]]:
    """Return where the vectors of a block of units begin, and how many numbers of them count: those
    of four gates, which are so far apart, or without gates those side by side."""
    if apart:
        return [(v * apart, units) for v in range(WIDE)]
    return [(v, min(k.lanes, units - v)) for v in range(0, units, k.lanes)]


def forward(target: Target, dtype: str, layer: Layer) -> Kernel:
    """Return the kernel of a sequence: what `lstm_sequence` takes and gives (in Elman's network
    without cells and acts), rows, steps, the first step and how far it is to the next one, how far
    apart the acts of two steps are."""
    names = ("gates", "bias", "h", "c", "w", "hs", "cells", "acts")
    k = Kernel(
        target, dtype, names,
        ("batch", "first", "tiles", "others", "steps", "start", "way", "apart"),
    )  # fmt: skip
    gates, bias, h, c, w, hs, cells, acts, batch, first, tiles, others, steps, start, way, apart = (
        k.arguments
    )
    rows, size, wide = _Rows(k, layer, first, tiles, others), layer.size, layer.gates
    lstm = layer.cell == "lstm"
    states = k.times(batch, size)
    with k.loop(steps) as s:
        t = k.sum(start, (s, way))
        begins = k.builder.icmp_signed("==", s, k.integer(0))

        def before(given: Any, made: Any, t: Integer = t, begins: Any = begins) -> Any:
            earlier = k.at(made, (k.builder.sub(t, way), states))
            return k.builder.select(begins, given, earlier)

        old, cell = before(h, hs), before(c, cells) if lstm else None
        sums = k.at(acts, (t, apart)) if lstm else k.at(hs, (t, states))
        given, news = k.at(gates, (t, k.times(batch, wide))), k.at(hs, (t, states))
        for begin, count, units in pieces(size, layer.block(k.lanes)):
            with k.loop(count) as j:
                unit = k.sum((j, units), begin)
                panel = k.at(w, (j, size * WIDE * k.lanes), begin // layer.block(k.lanes) * size * WIDE * k.lanes)
                vectors = _vectors(k, units, size if lstm else 0)

                def body(row: Integer, many: int) -> None:
                    totals = [[k.variable() for _ in vectors] for _ in range(many)]
                    starts = k.sum((row, wide), unit)
                    for r in range(many):
                        for place, _ in vectors:
                            k.prefetch(k.at(given, starts, r * wide + place))
                            k.prefetch(k.at(sums, starts, r * wide + place), write=True)
                    _products(k, k.at(old, (row, size)), size, panel, size, totals)
                    for r, line in enumerate(totals):
                        for total, (place, some) in zip(line, vectors, strict=True):
                            k.store(total.get(), k.at(sums, starts, r * wide + place), some)
                    with k.loop(many) as r:
                        at = k.sum((r, wide), starts)
                        values = [
                            k.load(k.at(sums, at, place), some)
                            + k.load(k.at(given, at, place), some)
                            + k.load(k.at(bias, unit, place), some)
                            for place, some in vectors
                        ]
                        if lstm:
                            state = k.sum((k.sum(row, r), size), unit)
                            values = [f(k, v) for f, v in zip((sigmoid, sigmoid, tanh, sigmoid), values, strict=True)]
                            i, f, g, o = values
                            made = f * k.load(k.at(cell, state), units) + i * g
                            k.store(made, k.at(cells, (t, states), state), units)
                            k.store(o * tanh(k, made), k.at(news, state), units)
                        else:
                            values = [_bent(k, layer.cell, v) for v in values]
                        for value, (place, some) in zip(values, vectors, strict=True):
                            k.store(value, k.at(sums, at, place), some)

                rows.each_tile(body)
    return k


def _bent(k: Kernel, cell: str, x: Vector) -> Vector:
    return tanh(k, x) if cell == "tanh" else k.larger(k.vector(0.0), x)


def backward(target: Target, dtype: str, layer: Layer, tops: bool) -> Kernel:
    """Return the kernel that goes back through a sequence: the gradients of hs (if `tops`), acts
    (of Elman's network hs), cells, c, w, the gradients of the gates, of the state and of the
    cells, which hold those of the last ones before; rows, steps, the first of them and how far it
    is to the next one."""
    names = ("dhs", "acts", "cells", "c", "w", "dgates", "dh", "dc")
    k = Kernel(
        target, dtype, names, ("batch", "first", "tiles", "others", "steps", "start", "way")
    )
    dhs, acts, cells, c, w, dgates, dh, dc, batch, first, tiles, others, steps, start, way = (
        k.arguments
    )
    rows, size, wide = _Rows(k, layer, first, tiles, others), layer.size, layer.gates
    states, lstm = k.times(batch, size), layer.cell == "lstm"
    with k.loop(steps) as s:
        t = k.sum(start, (s, way))
        made, values = k.at(dgates, (t, k.times(batch, wide))), k.at(acts, (t, k.times(batch, wide)))
        last = k.builder.icmp_signed("==", k.sum(s, 1), steps)
        if lstm:
            old = k.builder.select(last, c, k.at(cells, (k.sum(t, way), states)))
        with k.loop(rows.count()) as r:
            row = k.sum(first, r)

            def slope(unit: Integer, some: Integer | None) -> None:
                at = k.sum((row, size), unit)
                top = k.load(k.at(dh, at), some)
                if tops:
                    top = top + k.load(k.at(dhs, (t, states), at), some)
                if lstm:
                    places = [k.sum((row, wide), (size, q), unit) for q in range(4)]
                    read = [k.load(k.at(values, place), some) for place in places]
                    kept = [k.at(dc, at), k.at(old, at), k.at(cells, (t, states), at)]
                    steep, inner = slopes(k, read, top, *[k.load(p, some) for p in kept])
                    k.store(inner, k.at(dc, at), some)
                else:
                    places, y = [at], k.load(k.at(values, at), some)
                    steep = [top * (1.0 - y * y) if layer.cell == "tanh" else k.select(y > 0.0, top, 0.0)]
                for value, place in zip(steep, places, strict=True):
                    k.store(value, k.at(made, place), some)
                k.store(k.vector(0.0), k.at(dh, at), some)

            sweep(k, size, slope, unroll=1)
        with k.where(k.builder.not_(last)):
            for begin, count, units in pieces(size, WIDE * k.lanes):
                with k.loop(count) as j:
                    for top, chunks, depth in pieces(wide, DEPTH):
                        with k.loop(chunks) as i:
                            deep = k.sum((i, depth), top)
                            panel = k.at(w, (j, wide * WIDE * k.lanes), (deep, WIDE * k.lanes), begin * wide)
                            vectors = _vectors(k, units, 0)

                            def body(row: Integer, many: int) -> None:
                                at = k.sum((row, size), (j, units), begin)
                                places = [[(k.at(dh, at, q * size + place), some) for place, some in vectors] for q in range(many)]
                                totals = [[k.variable(k.load(*p)) for p in line] for line in places]
                                _products(k, k.at(made, (row, wide), deep), wide, panel, depth, totals)
                                for line, points in zip(totals, places, strict=True):
                                    for total, p in zip(line, points, strict=True):
                                        k.store(total.get(), *p)

                            rows.each_tile(body)
    return k


class _Plan:
    """What the kernels of a layer share: shapes, threads, and memory for panels."""

    def __init__(self, target: Target, cell: str, states: Spec, backwards: bool, macs: int) -> None:
        (self.steps, self.batch, self.size), self.dtype = states
        self.rows, self.backwards, self.macs = tile(target), backwards, macs
        self.whole, rest = divmod(self.batch, self.rows)
        self.layer, self.lanes = Layer(cell, self.size, rest), target.lanes(self.dtype)
        self.parts = self.whole + (rest > 0)

    def share(self, call: Callable[[int, int, int], None]) -> None:
        """Call with the first row, the number of tiles and whether the rest follows."""

        def work(first: int, last: int, worker: int) -> None:
            tiles = min(last, self.whole) - first
            call(first * self.rows, tiles, last - first - tiles)

        if self.macs < WORTHWHILE:
            work(0, self.parts, 0)
        else:
            share(self.parts, work)

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
        if back:
            wide = np.zeros((layer.gates, blocks * line), self.dtype)
            shape = layer.gates, blocks, line
            inside, order = wide[:, :size], (1, 0, 2)
        else:
            wide = np.zeros((many, blocks * unit, size), self.dtype)
            shape = many, blocks, unit, size
            inside, order = wide[:, :size], (1, 3, 0, 2)
        turned = wide.reshape(shape).transpose(order)
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
    if not _alike(*specs):
        return None
    gates, _, state, *_ = specs
    dtype, shape = gates.dtype, (gates.shape[0], *state.shape)
    plan = _Plan(target, "lstm", Spec(shape, dtype), backwards, gates.size * state.shape[1])
    function, lay = build(forward, target, dtype.name, plan.layer), plan.panels(back=False)

    def run(*xs: NDArray, backwards: bool) -> tuple[NDArray, ...]:
        x, bias, h, c, w = map(plain, xs)
        panels = lay(w)
        hs, cells = memory.empty(shape, dtype), memory.empty(shape, dtype)
        acts = memory.empty(x.shape, dtype)
        pointers = [address(a) for a in (x, bias, h, c, panels, hs, cells, acts)]
        apart = x.size // plan.steps
        plan.share(
            lambda *rows: function(*pointers, plan.batch, *rows, *plan.way(back=False), apart)
        )
        last = 0 if backwards else -1
        return hs, _copy(hs[last]), _copy(cells[last]), cells, acts

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

    def run(*xs: NDArray, nonlinearity: str, backwards: bool) -> tuple[NDArray, ...]:
        x, bias, h, w = map(plain, xs)
        hs, panels = memory.empty(x.shape, x.dtype), lay(w)
        pointers = [address(a) for a in (x, bias, h, h, panels, hs, hs, hs)]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *plan.way(back=False), 0))
        return hs, _copy(hs[0 if backwards else -1])

    return run


def _copy(x: NDArray) -> NDArray:
    y = memory.empty(x.shape, x.dtype)
    y[...] = x
    return y


def _start(dy: NDArray | None, like: NDArray) -> NDArray:
    """Return memory that holds the gradient of a last state."""
    y = memory.empty(like.shape[-2:], like.dtype)
    y[...] = 0 if dy is None else dy
    return y


@plans.implements("lstm_sequence_dx")
def lstm_sequence_dx(
    target: Target, *specs: Spec, given: tuple[bool, ...], backwards: bool
) -> plans.Kernel | None:
    """Plan the way back through a sequence of an LSTM."""
    if not _alike(*specs):
        return None
    acts, cells = specs[:2]
    plan = _Plan(target, "lstm", cells, backwards, acts.size * cells.shape[2])
    function = build(backward, target, acts.dtype.name, plan.layer, given[0])
    lay = plan.panels(back=True)

    def run(
        *xs: NDArray, given: tuple[bool, ...], backwards: bool
    ) -> tuple[NDArray, NDArray]:
        acts, cells, c, w, *dys = map(plain, xs)
        some = iter(dys)
        dhs, dlast, dcell = (next(some) if there else None for there in given)
        dh, dc = _start(dlast, c), _start(dcell, c)
        dgates, panels = memory.empty(acts.shape, acts.dtype), lay(w)
        arrays = (acts if dhs is None else dhs, acts, cells, c, panels, dgates, dh, dc)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *plan.way(back=True)))
        return dgates, dc

    return run


@plans.implements("rnn_sequence_dx")
def rnn_sequence_dx(
    target: Target, *specs: Spec, given: tuple[bool, ...], nonlinearity: str, backwards: bool
) -> plans.Kernel | None:
    """Plan the way back through a sequence of an Elman network."""
    if not _alike(*specs):
        return None
    states = specs[0]
    plan = _Plan(target, nonlinearity, states, backwards, states.size * states.shape[2])
    function = build(backward, target, states.dtype.name, plan.layer, given[0])
    lay = plan.panels(back=True)

    def run(
        *xs: NDArray, given: tuple[bool, ...], nonlinearity: str, backwards: bool
    ) -> NDArray:
        hs, w, *dys = map(plain, xs)
        some = iter(dys)
        dhs, dlast = (next(some) if there else None for there in given)
        dh, panels = _start(dlast, hs), lay(w)
        dgates = memory.empty(hs.shape, hs.dtype)
        arrays = (hs if dhs is None else dhs, hs, hs, hs, panels, dgates, dh, dh)
        pointers = [address(a) for a in arrays]
        plan.share(lambda *rows: function(*pointers, plan.batch, *rows, *plan.way(back=True)))
        return dgates

    return run
