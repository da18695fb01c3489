"""The kernel of a recurrent layer's way back through a whole sequence of bfloat16 by tiles, see
`recurrent_tiles.py`."""

from __future__ import annotations

from typing import Any

from ..compiler.isa.targets import Target
from ..compiler.language import I1, Integer, KernelBuilder
from ..compiler.tiles import ROWS, TILE
from ..compiler.vectors import Vector
from .conv_tiles import BLOCK
from .recurrent_cell import gated_slopes, slopes
from .recurrent_tiles import BATCH_ROWS, Between, Products, TileLayer, each_row, panel_of, spread


def backward(target: Target, layer: TileLayer, tops: bool, last: bool, cell: bool) -> KernelBuilder:
    """Return the kernel that goes back through a sequence: the gradients of hs (if `tops`), of the
    last state (if `last`) and of the last cells (if `cell`), values that were kept (of an Elman
    network, hs), cells and c (of a GRU, hs and h), packed weights; the gradients of the gates, and
    of the gates of states where these are others; of what the first step was given to carry; room
    of float32; and the integers of `forward`."""
    names = ("dhs", "dlast", "dcell", "acts", "cells", "c", "w", "dgates", "dstates", "dc", "room")
    integers = ("first", "count", "steps", "start", "way")
    k = KernelBuilder(target, "bfloat16", names, integers, aliases=("dgates", "dstates"))
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
        self.products, self.wide = Products(k, layer), k.computed()
        self.sums = k.room(2 * 2 * 2 * TILE)  # [2 halves][row][16 units], twice

    def _each(self, body: Any) -> None:
        """Write down `body` for each row, and each 16 units of it."""
        k, size = self.k, self.layer.size
        with k.loop(self.layer.rows) as r, k.loop(size // ROWS) as u:
            body(r, k.times(u, ROWS), self.wide.at(self.at["room"], (r, size), (u, ROWS)))

    def begin(self, row: Integer) -> None:
        """Bring the gradients of the last cells to the room, or zeros."""
        k, size = self.k, self.layer.size

        def body(r: Integer, unit: Integer, room: Any) -> None:
            at = k.at(self.at["dcell"], (k.sum(row, r), size), unit)
            self.wide.store(k.load(at) if self.cell else k.vector(0.0), room)

        if self.layer.carries:
            self._each(body)

    def end(self, row: Integer) -> None:
        """Write the gradients of what the first step was given to carry."""
        k, size = self.k, self.layer.size

        def body(r: Integer, unit: Integer, room: Any) -> None:
            k.store(self.wide.load(room), k.at(self.at["dc"], (k.sum(row, r), size), unit))

        if self.layer.carries:
            self._each(body)

    def step(self, row: Integer, t: Integer, s: Integer, way: Integer, final: Any) -> None:
        """Write a step back of the rows from `row` on."""
        k, layer = self.k, self.layer
        gates = layer.gates
        later = k.at(self.at["dstates"], (k.builder.sub(k.integer(t), way), layer.batch * gates))
        deep = gates // BLOCK
        many, x = layer.size // BLOCK, k.at(later, (row, gates))
        rooms = [self.wide.at(self.sums, i * TILE) for i in (0, 1)]

        def steep(u: Integer, sums: Any) -> Between:
            return lambda line: self._slopes(row, t, way, u, final, sums, line)

        with k.builder.if_else(k.none(s)) as (begins, goes_on):
            with begins, k.loop(many) as u:
                self._last(row, u)
                each_row(k, layer.rows, steep(u, rooms[0]))
            with goes_on:
                self._multiply(x, 0, rooms[0], None)
                if many > 1:
                    with k.loop(many - 1) as u:
                        odd = k.builder.trunc(k.integer(u), I1)
                        now, before = (
                            k.builder.select(odd, *pair) for pair in (rooms, rooms[::-1])
                        )
                        between = spread(k, layer.rows, deep * len(layer.tall), steep(u, before))
                        self._multiply(x, k.sum(u, 1), now, between)
                each_row(k, layer.rows, steep(many - 1, rooms[(many - 1) % 2]))

    def _multiply(self, x: Any, u: Integer, sums: Any, between: Between | None) -> None:
        """Sum up for 32 units."""
        k, gates = self.k, self.layer.gates
        self.products.begin()
        panels = [panel_of(k, self.at["w"], gates // BLOCK, u, half) for half in (0, 1)]
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
        size, batch, kept = layer.size, layer.batch, layer.form.kept * layer.size
        earlier = k.at(self.at["cells"], (k.sum(t, way), batch * size))
        old, r = k.builder.select(final, self.at["c"], earlier), k.sum(row, line)
        for half in (0, 1):
            unit = (u, BLOCK), half * ROWS
            dh = wide.load(wide.at(sums, (line, ROWS), half * BATCH_ROWS * ROWS))
            state = (t, batch * size), (r, size), *unit
            if self.tops:
                dh = dh + k.load(k.at(self.at["dhs"], *state))
            at = k.at(self.at["acts"], (t, batch * kept), (r, kept), *unit)
            acts = [k.load(k.at(at, q * size)) for q in range(layer.form.kept)]
            own, before = wide.at(self.at["room"], (line, size), *unit), k.at(old, (r, size), *unit)
            if not layer.carries:
                y = acts[0]
                steep = [
                    dh * (1.0 - y * y) if layer.cell == "tanh" else k.select(y <= 0.0, 0.0, dh)
                ]
            elif layer.cell == "gru":
                dh = dh + wide.load(own)
                steep, dm = gated_slopes(k, acts, dh, k.load(before))
                wide.store(dh * acts[1], own)
                self._store([*steep[:2], dm], "dstates", t, r, unit)
            else:
                cells = k.load(before), k.load(k.at(self.at["cells"], *state))
                steep, dc = slopes(k, acts, dh, wide.load(own), *cells)
                wide.store(dc, own)
            self._store(steep, "dgates", t, r, unit)

    def _store(
        self, values: list[Vector], name: str, t: Integer, row: Integer, unit: tuple[Any, ...]
    ) -> None:
        """Write the gradients of the gates of 16 units of a row."""
        k, gates = self.k, self.layer.gates
        to = k.at(self.at[name], (t, self.layer.batch * gates), (row, gates), *unit)
        for q, value in enumerate(values):
            k.store(value, k.at(to, q * self.layer.size))
