"""The kernel of a recurrent layer over a whole sequence of bfloat16 by tiles, and what that of the
way back shares with it.

Tiles are rows of the batch, two of them at a time, which do not depend on one another. Forward, two
sums of 16 units are made at a time, or two halves of 32 units where there is one sum a unit;
backward, 32 units are. Sums are float32, and so is what rows carry from step to step: an LSTM's
cells, a GRU's states. States are rounded before they are multiplied, once a step.

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
from .recurrent_cell import bent, gated
from .shorts import WIDTH

BATCH_ROWS = 2 * ROWS  # rows of the batch that are worked on at a time
TOGETHER = 2  # rows whose cells are written side by side, for their functions are long chains
Between = Callable[[Integer], None]  # writes what is done to a row, or after a step


class Cell(NamedTuple):
    """What a kind of cell sums up for each unit, and what it keeps for the way back."""

    # Of each sum the gate of inputs and that of states, None where these have no part in it.
    sums: tuple[tuple[int | None, int | None], ...]
    biases: int  # one for both products, or one for each
    kept: int  # numbers of a unit that the way back reads

    @property
    def alike(self) -> bool:
        """Whether each sum is that of a gate of its own, of inputs and of states."""
        return self.sums == tuple((q, q) for q in range(len(self.sums)))


CELLS = {
    "lstm": Cell(((0, 0), (1, 1), (2, 2), (3, 3)), 1, 4),
    "gru": Cell(((0, 0), (1, 1), (2, None), (None, 2)), 2, 4),
    **dict.fromkeys(("tanh", "relu"), Cell(((0, 0),), 1, 1)),
}


class TileLayer(NamedTuple):
    """A kind of layer, and the rows in each of its tiles."""

    cell: str  # of CELLS
    batch: int
    inputs: int  # numbers in an input, whole blocks of 32
    size: int  # numbers in a state, likewise
    tall: tuple[int, ...]

    @property
    def form(self) -> Cell:
        """What the cell sums up and keeps."""
        return CELLS[self.cell]

    @property
    def sums(self) -> int:
        """Sums of a unit."""
        return len(self.form.sums)

    @property
    def gates(self) -> int:
        """Numbers in a row of gates."""
        return self.size * max(gate + 1 for gate, _ in self.form.sums if gate is not None)

    @property
    def carries(self) -> bool:
        """Whether rows carry numbers of float32 from step to step."""
        return self.sums > 1

    @property
    def room(self) -> int:
        """Numbers of float32 in the room of a call: what rows carry, and biases."""
        return (BATCH_ROWS + self.sums) * self.size

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return sum(self.tall)


def spread(k: KernelBuilder, rows: int, steps: int, body: Between) -> Between:
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


def each_row(k: KernelBuilder, rows: int, body: Between) -> None:
    """Write down `body` for all rows."""
    together = TOGETHER if rows % TOGETHER == 0 else 1
    with k.loop(rows // together) as i:
        for r in range(together):
            body(k.sum((i, together), r))


class Products:
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
        """Add products of rows, so many numbers `apart`, with two panels of weights, or with one of
        them, the other being None. What stands `between` them is written after each tile of rows;
        blocks of columns count from `first`."""
        k = self.k
        there = [half for half, panel in enumerate(panels) if panel is not None]
        with k.loop(deep) as b:
            for half in there:
                self.tiles.operand(3 * self.many + half, k.at(panels[half], (b, 2 * PANEL)))
            for m in range(self.many):
                at = k.at(x, (b, BLOCK), m * ROWS * apart)
                self.tiles.operand(2 * self.many + m, at, apart * WIDTH)
                sums = [half * self.many + m for half in there]
                self.tiles.dots(sums, 2 * self.many + m, [3 * self.many + half for half in there])
                if between:
                    between(k.sum((k.sum(first, b), self.many), m))

    def store(self, room: Any, first: Integer) -> None:
        """Write the sums to `room`, [16 columns][row][16], from such 16 columns on."""
        room = self.k.computed().at(room, (first, BATCH_ROWS * ROWS))
        for half in (0, 1):
            for m in range(self.many):
                at = (half * BATCH_ROWS + m * ROWS) * ROWS
                self.tiles.store(half * self.many + m, self.k.computed().at(room, at))


def panel_of(k: KernelBuilder, w: Any, deep: int, column: Integer, half: Integer) -> Any:
    """Return where the weights of 16 results lie, half of a block of 32 from the number `column` /
    32 on; `deep` blocks of 32 channels follow each other."""
    return k.at(w, (column, deep * 2 * PANEL), (half, PANEL))


def forward(target: Target, layer: TileLayer, keeps: bool) -> KernelBuilder:
    """Return the kernel of a sequence: inputs, packed weights of inputs and of states, the bias and
    that of states where there are two, h, what rows carry (c or h), states, cells, values that are
    kept, room of float32; first block of rows, number of blocks, steps, the first one and how far
    it is to the next. Without `keeps`, each step overwrites the cells of the one before, and no
    values are written."""
    names = ("x", "w_ih", "w", "bias", "other", "h", "c", "hs", "cells", "acts", "room")
    k = KernelBuilder(target, "bfloat16", names, ("first", "count", "steps", "start", "way"))
    *_, first, count, steps, start, way = k.arguments
    writer = _Forward(k, layer, keeps)
    writer.add_biases()
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
        self.products, self.wide = Products(k, layer), k.computed()
        # Of 32 units, those that are summed up at a time.
        self.halves = 2 if layer.sums == 1 else 1
        self.room = 2 * self.halves * layer.sums * TILE  # [4 sums, or 2 halves][row][16 units]
        self.sums = k.room(2 * self.room)
        self.biases = self.wide.at(self.at["room"], BATCH_ROWS * layer.size)

    def add_biases(self) -> None:
        """Write what all sums begin with to the room."""
        k, form, size = self.k, self.layer.form, self.layer.size
        with k.loop(size // ROWS) as u:
            for q, (gate, other) in enumerate(form.sums):
                given = [("bias", gate), ("other", other)][: form.biases]
                values = [
                    k.load(k.at(self.at[name], (u, ROWS), number * size))
                    for name, number in given
                    if number is not None
                ]
                total = values[0] + values[1] if len(values) > 1 else values[0]
                self.wide.store(total, self.wide.at(self.biases, (u, ROWS), q * size))

    def begin(self, row: Integer) -> None:
        """Bring what rows carry to the room."""
        k, size = self.k, self.layer.size
        if not self.layer.carries:
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
        # Products are written for so many tiles of rows, of each pair of sums.
        pairs, deep = blocks(layer.sums, 2), (layer.inputs + layer.size) // BLOCK
        steps = pairs * deep * len(layer.tall)

        def cells(n: Integer, sums: Any) -> Between:
            return lambda line: self._cells(row, t, n, sums, line)

        self._multiply(x, h, 0, rooms[0], None)
        if many > 1:
            with k.loop(many - 1) as n:
                odd = k.builder.trunc(k.integer(n), I1)
                now, before = (k.builder.select(odd, *pair) for pair in (rooms, rooms[::-1]))
                between = spread(k, layer.rows, steps, cells(n, before))
                self._multiply(x, h, k.sum(n, 1), now, between)
        each_row(k, layer.rows, cells(many - 1, rooms[(many - 1) % 2]))

    def _multiply(self, x: Any, h: Any, n: Integer, sums: Any, between: Between | None) -> None:
        """Sum up for 16 units of all sums, two at a time, or of two halves of a block of units."""
        k, layer = self.k, self.layer
        n, one, apart = k.integer(n), k.integer(1), layer.size // BLOCK
        if layer.sums == 1:
            halves = [(n, half) for half in (0, 1)]
            self._pair(x, h, 0, (halves, halves), sums, between)
            return
        u, half = k.builder.lshr(n, one), k.builder.and_(n, one)
        if layer.form.alike:
            with k.loop(layer.sums // 2) as pair:
                both = [(k.sum(u, (pair, 2 * apart), i * apart), half) for i in (0, 1)]
                self._pair(x, h, pair, (both, both), sums, between)
            return
        for pair in range(layer.sums // 2):
            gates = zip(*layer.form.sums[2 * pair : 2 * pair + 2], strict=True)
            places = [
                [None if gate is None else (k.sum(u, gate * apart), half) for gate in two]
                for two in gates
            ]
            self._pair(x, h, pair, places, sums, between)

    def _pair(
        self, x: Any, h: Any, pair: Integer, places: Sequence[Sequence[Any]], sums: Any,
        between: Between | None,
    ) -> None:  # fmt: skip
        """Write a pair of sums, whose weights of inputs and of states lie at two places each, None
        where they have no part in a sum."""
        k, layer, products = self.k, self.layer, self.products
        products.begin()
        first = k.times(pair, (layer.inputs + layer.size) // BLOCK)
        sources = (x, "w_ih", layer.inputs), (h, "w", layer.size)
        for (source, name, width), two in zip(sources, places, strict=True):
            deep = width // BLOCK
            panels = [at and panel_of(k, self.at[name], deep, *at) for at in two]
            products.add(source, width, deep, panels, between, first)
            first = k.sum(first, deep)
        products.store(sums, k.times(pair, 2))

    def _cells(self, row: Integer, t: Integer, n: Integer, sums: Any, line: Integer) -> None:
        """Write the states of 16 units of a row, or of 32."""
        layer, wide = self.layer, self.wide
        for half in range(self.halves):
            unit = (n, ROWS * self.halves), half * ROWS
            values = [
                wide.load(wide.at(sums, (line, ROWS), (half + q) * BATCH_ROWS * ROWS))
                + wide.load(wide.at(self.biases, *unit, q * layer.size))
                for q in range(layer.sums)
            ]
            self._cell(values, self.k.sum(row, line), line, t, unit)

    def _cell(
        self, sums: list[Vector], row: Integer, line: Integer, t: Integer, unit: tuple[Any, ...]
    ) -> None:
        """Write the states of 16 units of a row."""
        k, layer, wide, batch = self.k, self.layer, self.wide, self.layer.batch
        size, wanted = layer.size, t if self.keeps else 0
        state = k.at(self.at["hs"], (t, batch * size), (row, size), *unit)
        if not layer.carries:
            k.store(bent(k, layer.cell, sums[0]), state)
            return
        own = wide.at(self.at["room"], (line, size), *unit)
        if layer.cell == "gru":
            kept, h = gated(k, sums, wide.load(own))
            wide.store(h, own)
        else:
            kept, h, cell = _lstm_cell(k, sums, wide.load(own))
            wide.store(cell, own)
            k.store(cell, k.at(self.at["cells"], (wanted, batch * size), (row, size), *unit))
        k.store(h, state)
        if self.keeps:
            many = layer.form.kept * size
            acts = k.at(self.at["acts"], (t, many * batch), (row, many), *unit)
            for q, value in enumerate(kept):
                k.store(value, k.at(acts, q * size))


def _lstm_cell(
    k: KernelBuilder, sums: list[Vector], cell: Vector
) -> tuple[list[Vector], Vector, Vector]:
    """Return i f g o, the state and the cell, of sums and the cell before."""
    functions = sigmoid_gate, sigmoid_gate, tanh, sigmoid_gate
    acts = [function(k, value) for function, value in zip(functions, sums, strict=True)]
    i, f, g, o = acts
    cell = k.fma(f, cell, i * g)
    return acts, o * tanh(k, cell), cell
