"""Kernels of a recurrent layer over a whole sequence, forward and backward.

Loops, from the outside: steps, panels of weights, tiles of rows of the batch, the inner axis. In
registers are the sums of a tile: its rows (`tile`: 6 with 32 registers, 2 with 16) times the WIDE
vectors of a panel. The cells follow while the sums are in the first-level cache. Rows of the batch
do not depend on one another, so threads share tiles of rows over all steps.

Panels lie as [block][k][4][lanes]: the four gates of as many units as a vector holds, or four
vectors of units; forward, k counts the inputs first, then the states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.mathematics import sigmoid, tanh
from ..compiler.vectors import Variable, Vector
from .recurrent_cell import bent, slopes
from .sweep import sweep

WIDE = 4  # vectors of a panel
UNROLL = 4  # products of a turn of the loop
DEPTH = 128  # rows of a panel that all tiles use in turn, as long as the first level holds them
TOGETHER = 3  # rows whose cells are written side by side, for their functions are long chains


class RecurrentLayer(NamedTuple):
    """A kind of layer, for a batch that leaves the same rest."""

    cell: str  # lstm, gru, tanh or relu
    size: int  # numbers in a state
    rest: int  # rows of the batch that fill no whole tile
    inputs: int = 0  # numbers in an input (forward only)
    apart: int = 0  # numbers from one row of inputs to the next (forward only)

    @property
    def lstm(self) -> bool:
        """Whether the states have cells and four gates."""
        return self.cell == "lstm"

    @property
    def gates(self) -> int:
        """Numbers in the gates of a row."""
        return self.size * {"lstm": 4, "gru": 3}.get(self.cell, 1)

    def block(self, lanes: int) -> int:
        """Units of a panel of the forward product."""
        return lanes if self.gates > self.size else WIDE * lanes


def tile(target: Target) -> int:
    """Return how many rows are multiplied together: their sums, a row of a panel and numbers of the
    states fit in the registers."""
    return (target.registers - 2 * WIDE) // WIDE


class BatchRows(NamedTuple):
    """The rows of the batch that one call of a kernel works on."""

    k: KernelBuilder
    rest: int  # rows behind whole tiles
    first: Integer  # row
    tiles: Integer  # whole tiles
    others: Integer  # 1 if the rest follows, else 0

    def each_tile(self, body: Callable[[Integer, int], None]) -> None:
        """Write down `body` for each tile: its first row and its number of rows."""
        k, rows = self.k, tile(self.k.target)
        with k.where(k.positive(self.tiles)), k.loop(self.tiles) as i:
            body(k.sum(self.first, (i, rows)), rows)
        if self.rest:
            with k.where(k.positive(self.others)):
                body(k.sum(self.first, (self.tiles, rows)), self.rest)

    def many(self) -> Integer:
        """Return how many there are."""
        return self.k.sum((self.tiles, tile(self.k.target)), (self.others, self.rest))


class Factors(NamedTuple):
    """What `products` multiplies: numbers of a tile with vectors of a panel."""

    x: Any  # address of the numbers
    apart: int  # numbers from one row of the tile to the next
    along: int  # numbers of x from one product to the next
    panel: Any  # address of the vectors
    line: int  # numbers of the panel from one product to the next
    some: int | None = None  # numbers of the last vector, None for all
    # address to prefetch, and numbers further from one product to the next
    soon: tuple[Any, int] | None = None


def products(k: KernelBuilder, f: Factors, depth: int, sums: list[list[Variable]]) -> None:
    """Add to sums[r][v] the sum of `depth` products of row r and vector v."""
    last = len(sums[0]) - 1
    for start, count, steps in pieces(depth, UNROLL):
        with k.loop(count) as i:
            for j in range(start, start + steps):
                if f.soon:
                    memory, further = f.soon
                    k.prefetch(k.at(memory, (i, steps * further), j * further), near=2)
                columns = [
                    k.load(
                        k.at(f.panel, (i, steps * f.line), j * f.line + v * k.lanes),
                        f.some if v == last else None,
                    )
                    for v in range(last + 1)
                ]
                for r, row in enumerate(sums):
                    number = k.broadcast(k.at(f.x, (i, steps * f.along), r * f.apart + j * f.along))
                    for total, column in zip(row, columns, strict=True):
                        total.set(k.fma(number, column, total.get()))


def vectors_of(k: KernelBuilder, units: int, apart: int) -> list[tuple[int, int]]:
    """Return where the vectors of a block of units begin, and how many numbers of them count: those
    of four gates, which are so far apart, or without gates those side by side."""
    if apart:
        return [(v * apart, units) for v in range(WIDE)]
    return [(v, min(k.lanes, units - v)) for v in range(0, units, k.lanes)]


class _Step(NamedTuple):
    """Addresses of one step forward."""

    k: KernelBuilder
    layer: RecurrentLayer
    inputs: Any
    bias: Any
    sums: Any  # of the products; then acts or states
    before: Any  # states before the step
    states: Any  # after it
    old: Any  # cells before the step
    cells: Any  # after it

    def multiply(self, panel: Any, unit: Integer, units: int, row: Integer, many: int) -> None:
        """Write the products of some rows with a panel to the sums, then the cells."""
        k, (_, size, _, inputs, apart), wide = self.k, self.layer, self.layer.gates
        vectors, apiece = vectors_of(k, units, size if self.layer.lstm else 0), WIDE * k.lanes
        start = k.sum((row, wide), unit)
        bias = [k.load(k.at(self.bias, unit, offset), some) for offset, some in vectors]
        totals = [[k.variable(b) for b in bias] for _ in range(many)]
        x, h = k.at(self.inputs, (row, apart)), k.at(self.before, (row, size))
        products(k, Factors(x, apart, 1, panel, apiece), inputs, totals)
        products(k, Factors(h, size, 1, k.at(panel, inputs * apiece), apiece), size, totals)
        for r, line in enumerate(totals):
            for total, (offset, some) in zip(line, vectors, strict=True):
                k.store(total.get(), k.at(self.sums, start, r * wide + offset), some)
        for begin, count, rows in pieces(many, TOGETHER):
            with k.loop(count) as i:
                self._finish([k.sum(row, (i, rows), begin + r) for r in range(rows)], unit, units)

    def _finish(self, rows: list[Integer], unit: Integer, units: int) -> None:
        """Make states of the sums of some rows."""
        k, size = self.k, self.layer.size
        targets = [
            (k.at(self.sums, (row, self.layer.gates), unit, offset), some)
            for row in rows
            for offset, some in vectors_of(k, units, size if self.layer.lstm else 0)
        ]
        sums = [k.load(*target) for target in targets]
        if self.layer.lstm:
            values = self._lstm(sums, [k.sum((row, size), unit) for row in rows], units)
        else:
            values = [bent(k, self.layer.cell, x) for x in sums]
        for value, target in zip(values, targets, strict=True):
            k.store(value, *target)

    def _lstm(self, sums: list[Vector], offsets: list[Integer], units: int) -> list[Vector]:
        """Write cells and states of some rows; return their gates i f g o, row by row."""
        k = self.k
        acts = [(tanh if n % 4 == 2 else sigmoid)(k, x) for n, x in enumerate(sums)]
        new_cells = []
        for n, at in enumerate(offsets):
            i, f, g, _ = acts[4 * n : 4 * n + 4]
            new_cells.append(f * k.load(k.at(self.old, at), units) + i * g)
            k.store(new_cells[-1], k.at(self.cells, at), units)
        for cell, o, at in zip(new_cells, acts[3::4], offsets, strict=True):
            k.store(o * tanh(k, cell), k.at(self.states, at), units)
        return acts


def forward(target: Target, dtype: str, layer: RecurrentLayer) -> KernelBuilder:
    """Return the kernel of a sequence: what `lstm_sequence` takes and gives (without gates, hs for
    acts), both weights being panels; rows of the batch and those of the call; steps, the first one,
    and how far it is to the next; numbers between the inputs of two steps, between their cells, and
    between their acts."""
    pointers = ("x", "bias", "h", "c", "w", "hs", "cells", "acts")
    integers = (
        "batch", "first", "tiles", "others", "steps", "start", "way", "x_apart", "cells_apart",
        "acts_apart",
    )  # fmt: skip
    # Elman's network has no gates: its sums, and then its states, are written to hs as "acts".
    k = KernelBuilder(
        target, dtype, pointers, integers, aliases=() if layer.lstm else ("hs", "acts")
    )
    x, bias, h, c, w, hs, cells, acts = k.arguments[: len(pointers)]
    batch, first, tiles, others, steps, start, way, *apart = k.arguments[len(pointers) :]
    rows, states = BatchRows(k, layer.rest, first, tiles, others), k.times(batch, layer.size)
    panel = (layer.inputs + layer.size) * WIDE * k.lanes
    with k.loop(steps) as s:
        t = k.sum(start, (s, way))
        # In the first step the addresses before it lie outside of hs and cells; they are not read.
        begins, earlier = k.builder.icmp_signed("==", s, k.integer(0)), k.builder.sub(t, way)
        step = _Step(
            k, layer, k.at(x, (t, apart[0])), bias, k.at(acts, (t, apart[2])),
            k.builder.select(begins, h, k.at(hs, (earlier, states))), k.at(hs, (t, states)),
            k.builder.select(begins, c, k.at(cells, (earlier, apart[1]))),
            k.at(cells, (t, apart[1])),
        )  # fmt: skip
        each_panel(layer, w, panel, rows, step.multiply)
    return k


def each_panel(
    layer: RecurrentLayer, w: Any, panel: int, rows: BatchRows, multiply: Callable[..., None]
) -> None:
    """Call `multiply` for each panel of weights, of so many numbers, and each tile of rows: panel,
    first unit, number of units, first row, number of rows."""
    k = rows.k
    for begin, count, units in pieces(layer.size, layer.block(k.lanes)):
        with k.loop(count) as j:
            weights = k.at(w, (j, panel), begin // layer.block(k.lanes) * panel)
            rows.each_tile(partial(multiply, weights, k.sum((j, units), begin), units))


class StepBack(NamedTuple):
    """Addresses of one step backward."""

    k: KernelBuilder
    layer: RecurrentLayer
    top: Any  # gradient of the state from above, None without
    acts: Any  # of this step; without cells its states
    later: Any  # acts of the step that comes next, for prefetching
    old: Any  # cells before the step
    cells: Any  # after it
    dgates: Any
    dh: Any
    dc: Any

    def slopes(self, row: Integer) -> None:
        """Turn a row's gradient of the state into those of the gates; set it to zero."""
        k, size = self.k, self.layer.size

        def body(unit: Integer, some: Integer | None) -> None:
            at = k.sum((row, size), unit)
            dh = k.load(k.at(self.dh, at), some)
            if self.top is not None:
                dh = dh + k.load(k.at(self.top, at), some)
            parts = range(self.layer.gates // size)
            offsets = [k.sum((row, self.layer.gates), (size, q), unit) for q in parts]
            values = [k.load(k.at(self.acts, offset), some) for offset in offsets]
            steep = self._steep(dh, values, at, some)
            for value, offset in zip(steep, offsets, strict=True):
                k.store(value, k.at(self.dgates, offset), some)
            k.store(k.vector(0.0), k.at(self.dh, at), some)

        sweep(k, size, body, unroll=1)

    def _steep(
        self, dh: Vector, values: list[Vector], at: Integer, some: Integer | None
    ) -> list[Vector]:
        """Return the gradients of the gates; write that of the cells."""
        k, y = self.k, values[0]
        if self.layer.lstm:
            states = [k.load(k.at(x, at), some) for x in (self.dc, self.old, self.cells)]
            steep, dc = slopes(k, values, dh, *states)
            k.store(dc, k.at(self.dc, at), some)
            return steep
        return [dh * (1.0 - y * y) if self.layer.cell == "tanh" else k.select(y <= 0.0, 0.0, dh)]

    def multiply(
        self, panel: Any, deep: Integer, depth: int, unit: Integer, units: int, row: Integer,
        many: int,
    ) -> None:  # fmt: skip
        """Add the products of some rows' gradients of the gates, from the number `deep` on, with a
        panel to the gradients of the state."""
        k, size, wide = self.k, self.layer.size, self.layer.gates
        at = k.sum((row, size), unit)
        targets = [
            [(k.at(self.dh, at, r * size + v), some) for v, some in vectors_of(k, units, 0)]
            for r in range(many)
        ]
        totals = [[k.variable(k.load(*target)) for target in line] for line in targets]
        x = k.at(self.dgates, (row, wide), deep)
        # Acts of the next step are far away; all tiles and depths together ask for them.
        soon = k.at(self.later, (row, wide), (deep, many)), many
        products(k, Factors(x, wide, 1, panel, WIDE * k.lanes, soon=soon), depth, totals)
        for line, into in zip(totals, targets, strict=True):
            for total, target in zip(line, into, strict=True):
                k.store(total.get(), *target)


def backward(target: Target, dtype: str, layer: RecurrentLayer, tops: bool) -> KernelBuilder:
    """Return the kernel that goes back through a sequence: the gradient of hs (if `tops`), acts
    (without cells hs), cells, c, w; the gradients of the gates, and those of the state and the
    cells, which hold the last ones' before; rows of the batch and those of the call; steps, the
    first one, and how far it is to the next."""
    pointers = ("dhs", "acts", "cells", "c", "w", "dgates", "dh", "dc")
    k = KernelBuilder(
        target, dtype, pointers, ("batch", "first", "tiles", "others", "steps", "start", "way")
    )
    dhs, acts, cells, c, w, dgates, dh, dc = k.arguments[: len(pointers)]
    batch, first, tiles, others, steps, start, way = k.arguments[len(pointers) :]
    rows, states = BatchRows(k, layer.rest, first, tiles, others), k.times(batch, layer.size)
    wide = k.times(batch, layer.gates)
    with k.loop(steps) as s:
        t, last = k.sum(start, (s, way)), k.builder.icmp_signed("==", k.sum(s, 1), steps)
        step = StepBack(
            k, layer, k.at(dhs, (t, states)) if tops else None, k.at(acts, (t, wide)),
            k.at(acts, (k.sum(t, way), wide)),
            k.builder.select(last, c, k.at(cells, (k.sum(t, way), states))),
            k.at(cells, (t, states)), k.at(dgates, (t, wide)), dh, dc,
        )  # fmt: skip
        with k.loop(rows.many()) as r:
            step.slopes(k.sum(first, r))
        with k.where(k.builder.not_(last)):
            carry(step, w, rows)
    return k


def carry(step: StepBack, w: Any, rows: BatchRows) -> None:
    """Multiply the gradients of the gates of all rows by w."""
    k, layer = step.k, step.layer
    line = WIDE * k.lanes
    for begin, count, units in pieces(layer.size, line):
        with k.loop(count) as j:
            unit = k.sum((j, units), begin)
            for top, chunks, depth in pieces(layer.gates, DEPTH):
                with k.loop(chunks) as i:
                    deep = k.sum((i, depth), top)
                    panel = k.at(w, (j, layer.gates * line), (deep, line), begin * layer.gates)
                    rows.each_tile(partial(step.multiply, panel, deep, depth, unit, units))
