"""Kernels of a recurrent layer over a whole sequence of bfloat16 by tiles, forward and backward.

Tiles are rows of the batch, two of them at a time, which do not depend on one another. Forward, two
gates of 16 units make four sums, or two halves of 32 units where there is one gate; backward, 32
units do. Sums and cells are float32. States are rounded before they are multiplied, once a step.

Cells of some units, and slopes on the way back, are written between the products of the next ones,
which leave the other units of the processor idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import I1, Integer, KernelBuilder
from ..compiler.mathematics import sigmoid_gate, tanh
from ..compiler.tiles import BYTES, ROWS, TILE, Tiles
from ..compiler.vectors import Vector
from .conv_tiles import BLOCK, PANEL, blocks
from .recurrent_cell import bent, slopes
from .shorts import WIDTH

BATCH_ROWS = 2 * ROWS  # rows of the batch that are worked on at a time
TOGETHER = 2  # rows whose cells are written side by side, for their functions are long chains
Between = Callable[[Integer], None]  # writes what is done to a row, or after a step


class TileLayer(NamedTuple):
    """A kind of layer, and the rows in each of its tiles."""

    cell: str  # lstm, tanh or relu
    batch: int
    inputs: int  # numbers in an input, whole blocks of 32
    size: int  # numbers in a state, likewise
    tall: tuple[int, ...]

    @property
    def quarters(self) -> int:
        """Gates of a unit."""
        return 4 if self.cell == "lstm" else 1

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return sum(self.tall)


def _between(k: KernelBuilder, rows: int, steps: int, body: Between) -> Between:
    """Return what spreads the work on rows, `body`, evenly over so many steps."""
    few = blocks(rows, steps)
    guarded = 1 if rows % few else few  # rows that are there together, or none of them

    def after(step: Integer) -> None:
        for first in range(0, few, guarded):
            row = k.sum((step, few), first)
            with k.where(k.positive(k.builder.sub(k.integer(rows), k.integer(row)))):
                for r in range(guarded):
                    body(k.sum(row, r))

    return after


def _each(k: KernelBuilder, rows: int, body: Between) -> None:
    """Write down `body` for all rows."""
    together = TOGETHER if rows % TOGETHER == 0 else 1
    with k.loop(rows // together) as i:
        for r in range(together):
            body(k.sum((i, together), r))


class _Products:
    """Writes products of rows of the batch, with 32 columns of weights or two times 16."""

    def __init__(self, k: KernelBuilder, layer: TileLayer) -> None:
        self.k, self.layer = k, layer
        rows = [(high, BYTES) for high in layer.tall]
        self.many = len(rows)
        self.tiles = Tiles(k, [*rows * 2, *rows, *[(ROWS, BYTES)] * 2])

    def begin(self) -> None:
        """Set all sums to zero."""
        for tile in range(2 * self.many):
            self.tiles.zero(tile)

    def add(
        self, x: Any, apart: int, deep: int, panels: Sequence[Any], between: Between | None,
        first: Integer = 0,
    ) -> None:  # fmt: skip
        """Add products of rows, so many numbers `apart`, with two panels of weights. What stands
        `between` them is written after each tile of rows; blocks of columns count from `first`."""
        k = self.k
        with k.loop(deep) as b:
            for half, panel in enumerate(panels):
                self.tiles.operand(3 * self.many + half, k.at(panel, (b, 2 * PANEL)))
            for m in range(self.many):
                at = k.at(x, (b, BLOCK), m * ROWS * apart)
                self.tiles.operand(2 * self.many + m, at, apart * WIDTH)
                sums, panels = (m, self.many + m), (3 * self.many, 3 * self.many + 1)
                self.tiles.dots(sums, 2 * self.many + m, panels)
                if between:
                    between(k.sum((k.sum(first, b), self.many), m))

    def store(self, room: Any, first: Integer) -> None:
        """Write the sums to `room`, [16 columns][row][16], from such 16 columns on."""
        room = self.k.computed().at(room, (first, BATCH_ROWS * ROWS))
        for half in (0, 1):
            for m in range(self.many):
                at = (half * BATCH_ROWS + m * ROWS) * ROWS
                self.tiles.store(half * self.many + m, self.k.computed().at(room, at))


def _panel(k: KernelBuilder, w: Any, deep: int, column: Integer, half: Integer) -> Any:
    """Return where the weights of 16 results lie, half of a block of 32 from the number `column` /
    32 on; `deep` blocks of 32 channels follow each other."""
    return k.at(w, (column, deep * 2 * PANEL), (half, PANEL))


def forward(target: Target, layer: TileLayer, keeps: bool) -> KernelBuilder:
    """Return the kernel of a sequence: inputs, packed weights of inputs and of states, bias, h, c,
    states, cells, gates' values, room for the cells of the rows of a call in float32; first block
    of rows, number of blocks, steps, the first one and how far it is to the next. Without `keeps`,
    each step overwrites cells and values of the one before."""
    names = ("x", "w_ih", "w", "bias", "h", "c", "hs", "cells", "acts", "room")
    k = KernelBuilder(target, "bfloat16", names, ("first", "count", "steps", "start", "way"))
    *_, first, count, steps, start, way = k.arguments
    writer = _Forward(k, layer, keeps)
    with k.loop(count) as i:
        row = k.sum((k.sum(first, i), BATCH_ROWS))
        writer.begin(row)
        with k.loop(steps) as s:
            writer.step(row, k.sum(start, (s, way)), s, way)
    writer.products.tiles.release()
    return k


class _Forward:
    """Writes steps of a block of rows."""

    def __init__(self, k: KernelBuilder, layer: TileLayer, keeps: bool) -> None:
        self.k, self.layer, self.keeps = k, layer, keeps
        self.at = dict(zip(k.pointers, k.arguments, strict=False))
        self.products, self.wide = _Products(k, layer), k.computed()
        # Of 32 units, those that are summed up at a time.
        self.halves = 2 if layer.quarters == 1 else 1
        self.room = 2 * self.halves * layer.quarters * TILE  # [4 gates, or 2 halves][row][16 units]
        self.sums = k.room(2 * self.room)

    def begin(self, row: Integer) -> None:
        """Bring the first cells to the room."""
        k, size = self.k, self.layer.size
        if self.layer.quarters == 1:
            return
        with k.loop(self.layer.rows) as r, k.loop(size // ROWS) as u:
            value = k.load(k.at(self.at["c"], (k.sum(row, r), size), (u, ROWS)))
            self.wide.store(value, self.wide.at(self.at["room"], (r, size), (u, ROWS)))

    def step(self, row: Integer, t: Integer, s: Integer, way: Integer) -> None:
        """Write a step of the rows from `row` on."""
        k, layer, batch = self.k, self.layer, self.layer.batch
        before = k.at(self.at["hs"], (k.builder.sub(k.integer(t), way), batch * layer.size))
        h = k.builder.select(k.none(s), self.at["h"], before)
        h = k.at(h, (row, layer.size))
        x = k.at(self.at["x"], (t, batch * layer.inputs), (row, layer.inputs))
        many, wide = layer.size // (ROWS * self.halves), self.wide
        rooms = [wide.at(self.sums, i * self.room // 4) for i in (0, 1)]
        # Products are written for so many tiles of rows, of each pair of gates.
        pairs, deep = blocks(layer.quarters, 2), (layer.inputs + layer.size) // BLOCK
        steps = pairs * deep * len(layer.tall)

        def cells(n: Integer, sums: Any) -> Between:
            return lambda line: self._cells(row, t, n, sums, line)

        self._multiply(x, h, 0, rooms[0], None)
        if many > 1:
            with k.loop(many - 1) as n:
                odd = k.builder.trunc(k.integer(n), I1)
                now, before = (k.builder.select(odd, *pair) for pair in (rooms, rooms[::-1]))
                between = _between(k, layer.rows, steps, cells(n, before))
                self._multiply(x, h, k.sum(n, 1), now, between)
        _each(k, layer.rows, cells(many - 1, rooms[(many - 1) % 2]))

    def _multiply(self, x: Any, h: Any, n: Integer, sums: Any, between: Between | None) -> None:
        """Sum up for 16 units of all gates, two at a time, or of two halves of a block of units."""
        k, layer, products = self.k, self.layer, self.products
        n, one, apart = k.integer(n), k.integer(1), layer.size // BLOCK
        single = layer.quarters == 1
        u, half = (n, 0) if single else (k.builder.lshr(n, one), k.builder.and_(n, one))
        with k.loop(blocks(layer.quarters, 2)) as pair:
            products.begin()
            first = k.times(pair, (layer.inputs + layer.size) // BLOCK)
            for source, name, width in ((x, "w_ih", layer.inputs), (h, "w", layer.size)):
                deep = width // BLOCK
                places = [
                    (u, i) if single else (k.sum(u, (pair, 2 * apart), i * apart), half)
                    for i in (0, 1)
                ]
                panels = [_panel(k, self.at[name], deep, *place) for place in places]
                products.add(source, width, deep, panels, between, first)
                first = k.sum(first, deep)
            products.store(sums, k.times(pair, 2))

    def _cells(self, row: Integer, t: Integer, n: Integer, sums: Any, line: Integer) -> None:
        """Write the states of 16 units of a row, or of 32."""
        k, layer, wide = self.k, self.layer, self.wide
        for half in range(self.halves):
            unit = (n, ROWS * self.halves), half * ROWS
            values = [
                wide.load(wide.at(sums, (line, ROWS), (half + q) * BATCH_ROWS * ROWS))
                + k.load(k.at(self.at["bias"], *unit, q * layer.size))
                for q in range(layer.quarters)
            ]
            self._cell(values, k.sum(row, line), line, t, unit)

    def _cell(
        self, sums: list[Vector], row: Integer, line: Integer, t: Integer, unit: tuple[Any, ...]
    ) -> None:
        """Write the states of 16 units of a row."""
        k, layer, wide, batch = self.k, self.layer, self.wide, self.layer.batch
        size, kept = layer.size, t if self.keeps else 0
        state = k.at(self.at["hs"], (t, batch * size), (row, size), *unit)
        if layer.quarters == 1:
            k.store(bent(k, layer.cell, sums[0]), state)
            return
        functions = sigmoid_gate, sigmoid_gate, tanh, sigmoid_gate
        acts = [function(k, value) for function, value in zip(functions, sums, strict=True)]
        i, f, g, o = acts
        own = wide.at(self.at["room"], (line, size), *unit)
        cell = k.fma(f, wide.load(own), i * g)
        wide.store(cell, own)
        k.store(cell, k.at(self.at["cells"], (kept, batch * size), (row, size), *unit))
        k.store(o * tanh(k, cell), state)
        gates = k.at(self.at["acts"], (kept, 4 * batch * size), (row, 4 * size), *unit)
        for q, value in enumerate(acts):
            k.store(value, k.at(gates, q * size))


def backward(target: Target, layer: TileLayer, tops: bool, last: bool, cell: bool) -> KernelBuilder:
    """Return the kernel that goes back through a sequence: the gradients of hs (if `tops`), of the
    last state (if `last`) and of the last cells (if `cell`), gates' values (without cells, hs),
    cells, c, packed weights; the gradients of the gates and of c; room for those of the cells of
    the rows of a call in float32; and the integers of `forward`."""
    names = ("dhs", "dlast", "dcell", "acts", "cells", "c", "w", "dgates", "dc", "room")
    k = KernelBuilder(target, "bfloat16", names, ("first", "count", "steps", "start", "way"))
    *_, first, count, steps, start, way = k.arguments
    writer = _Backward(k, layer, (tops, last, cell))
    with k.loop(count) as i:
        row = k.sum((k.sum(first, i), BATCH_ROWS))
        writer.begin(row)
        with k.loop(steps) as s:
            final = k.builder.icmp_signed("==", k.integer(k.sum(s, 1)), steps)
            writer.step(row, k.sum(start, (s, way)), s, way, final)
        writer.end(row)
    writer.products.tiles.release()
    return k


class _Backward:
    """Writes steps back of a block of rows."""

    def __init__(self, k: KernelBuilder, layer: TileLayer, present: tuple[bool, ...]) -> None:
        self.k, self.layer = k, layer
        self.tops, self.last, self.cell = present
        self.at = dict(zip(k.pointers, k.arguments, strict=False))
        self.products, self.wide = _Products(k, layer), k.computed()
        self.sums = k.room(2 * 2 * 2 * TILE)  # [2 halves][row][16 units], twice

    def _each(self, body: Any) -> None:
        """Write down `body` for each row, and each 16 units of it."""
        k, size = self.k, self.layer.size
        with k.loop(self.layer.rows) as r, k.loop(size // ROWS) as u:
            body(r, k.times(u, ROWS), self.wide.at(self.at["room"], (r, size), (u, ROWS)))

    def begin(self, row: Integer) -> None:
        """Bring the gradients of the last cells to the room."""
        k, size = self.k, self.layer.size

        def body(r: Integer, unit: Integer, room: Any) -> None:
            at = k.at(self.at["dcell"], (k.sum(row, r), size), unit)
            self.wide.store(k.load(at) if self.cell else k.vector(0.0), room)

        if self.layer.quarters > 1:
            self._each(body)

    def end(self, row: Integer) -> None:
        """Write the gradients of the first cells."""
        k, size = self.k, self.layer.size

        def body(r: Integer, unit: Integer, room: Any) -> None:
            k.store(self.wide.load(room), k.at(self.at["dc"], (k.sum(row, r), size), unit))

        if self.layer.quarters > 1:
            self._each(body)

    def step(self, row: Integer, t: Integer, s: Integer, way: Integer, final: Any) -> None:
        """Write a step back of the rows from `row` on."""
        k, layer = self.k, self.layer
        gates = layer.quarters * layer.size
        later = k.at(self.at["dgates"], (k.builder.sub(k.integer(t), way), layer.batch * gates))
        deep = gates // BLOCK
        many, x = layer.size // BLOCK, k.at(later, (row, gates))
        rooms = [self.wide.at(self.sums, i * TILE) for i in (0, 1)]

        def steep(u: Integer, sums: Any) -> Between:
            return lambda line: self._slopes(row, t, way, u, final, sums, line)

        with k.builder.if_else(k.none(s)) as (begins, goes_on):
            with begins, k.loop(many) as u:
                self._last(row, u)
                _each(k, layer.rows, steep(u, rooms[0]))
            with goes_on:
                self._multiply(x, 0, rooms[0], None)
                if many > 1:
                    with k.loop(many - 1) as u:
                        odd = k.builder.trunc(k.integer(u), I1)
                        now, before = (
                            k.builder.select(odd, *pair) for pair in (rooms, rooms[::-1])
                        )
                        between = _between(k, layer.rows, deep * len(layer.tall), steep(u, before))
                        self._multiply(x, k.sum(u, 1), now, between)
                _each(k, layer.rows, steep(many - 1, rooms[(many - 1) % 2]))

    def _multiply(self, x: Any, u: Integer, sums: Any, between: Between | None) -> None:
        """Sum up for 32 units."""
        k, gates = self.k, self.layer.quarters * self.layer.size
        self.products.begin()
        panels = [_panel(k, self.at["w"], gates // BLOCK, u, half) for half in (0, 1)]
        self.products.add(x, gates, gates // BLOCK, panels, between)
        self.products.store(sums, 0)

    def _last(self, row: Integer, u: Integer) -> None:
        """Let the gradients of the last states take the place of sums."""
        k, size, wide = self.k, self.layer.size, self.wide
        with k.loop(self.layer.rows) as r:
            for half in (0, 1):
                value = k.vector(0.0)
                if self.last:
                    at = (k.sum(row, r), size), (u, BLOCK), half * ROWS
                    value = k.load(k.at(self.at["dlast"], *at))
                wide.store(value, wide.at(self.sums, (r, ROWS), half * BATCH_ROWS * ROWS))

    def _slopes(
        self, row: Integer, t: Integer, way: Integer, u: Integer, final: Any, sums: Any,
        line: Integer,
    ) -> None:  # fmt: skip
        """Write the gradients of the gates of 32 units of a row."""
        k, layer, wide = self.k, self.layer, self.wide
        size, batch, gates = layer.size, layer.batch, layer.quarters * layer.size
        earlier = k.at(self.at["cells"], (k.sum(t, way), batch * size))
        old, r = k.builder.select(final, self.at["c"], earlier), k.sum(row, line)
        for half in (0, 1):
            unit = (u, BLOCK), half * ROWS
            dh = wide.load(wide.at(sums, (line, ROWS), half * BATCH_ROWS * ROWS))
            state = (t, batch * size), (r, size), *unit
            if self.tops:
                dh = dh + k.load(k.at(self.at["dhs"], *state))
            to = (t, batch * gates), (r, gates), *unit
            acts = [k.load(k.at(self.at["acts"], *to, q * size)) for q in range(layer.quarters)]
            if layer.quarters == 1:
                y = acts[0]
                steep = [
                    dh * (1.0 - y * y) if layer.cell == "tanh" else k.select(y <= 0.0, 0.0, dh)
                ]
            else:
                own = wide.at(self.at["room"], (line, size), *unit)
                cells = k.load(k.at(old, (r, size), *unit)), k.load(k.at(self.at["cells"], *state))
                steep, dc = slopes(k, acts, dh, wide.load(own), *cells)
                wide.store(dc, own)
            for q, value in enumerate(steep):
                k.store(value, k.at(self.at["dgates"], *to, q * size))
