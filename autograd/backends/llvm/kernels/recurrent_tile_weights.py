"""The gradients of a recurrent layer's weights by tiles: dgates^T times the inputs, the previous
states and ones, whose products are the sums of dgates (the bias), in one call.

Sums run over 32 rows of a step at a time, all steps of some rows after those of others, the last
rows first, which the way back wrote last. So many of these blocks are packed that they stay in the
second-level cache while all sums see them: dgates as [pair of tiles][block][2][16 pairs of rows][16
gates][2], the others turned round, [pair of tiles][block][2][16 channels][16 pairs of rows][2].
Channels are those of inputs, a one, and zeros up to a whole pair, then those of states.

The last gates of a GRU, n, are others for inputs and for states. Both are packed, those of states
behind all others. Products with channels that they do not meet are left out, but for those in the
pair of tiles that holds the one, which all meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.tiles import BYTES, ROWS, TILE, WORDS, Tiles
from ..compiler.transpose import columns_of
from .conv_tiles import blocks
from .conv_tiles_weights import BATCH as GROUP
from .conv_tiles_weights import PLACE, numbers, packed_tile
from .shorts import load, paired, store
from .sweep import parts_of

PAIR = 2 * PLACE
SUMS = 4 * TILE // 2  # numbers of bfloat16 in the room of four tiles of sums
Read = Callable[[KernelBuilder, Any, int], Any]
INTEGERS = ("first", "count", "steps", "start", "way", "far")
ONES = ir.Constant(WORDS, [0x3F803F80] * ROWS)  # pairs of ones in bfloat16


class GradientSizes(NamedTuple):
    """Sizes of the gradients of the weights."""

    rows: int  # of a step
    gates: int  # numbers in a row of dgates, whole blocks of 32
    size: int  # numbers in a state, likewise
    inputs: int  # numbers in an input
    apart: int  # numbers from one row of inputs to the next
    deep: int = 0  # blocks of rows that are packed at a time
    wide: int = 0  # blocks of 32 gates of a call, at most
    others: bool = False  # whether the last gates are others for states

    @property
    def blocks(self) -> int:
        """Blocks of 32 gates."""
        return (self.gates + self.others * self.size) // GROUP

    @property
    def seen(self) -> int:
        """Pairs of tiles of inputs and the one."""
        return blocks(self.inputs + 1, GROUP)

    @property
    def pairs(self) -> int:
        """Pairs of tiles of channels."""
        return self.seen + self.size // GROUP

    @property
    def line(self) -> int:
        """Numbers from one packed pair of tiles to the next."""
        return self.deep * PAIR

    @property
    def room(self) -> int:
        """Numbers of bfloat16 in the room for all that is packed, and the sums."""
        return (self.pairs + self.wide) * self.line + self.pairs * self.wide * SUMS

    def blocked(self, packed: int, sums: int, most: int) -> GradientSizes:
        """Return these sizes with as many gates at a time as have so many bytes of sums, and as
        many blocks of rows, `most` at most, as have so many bytes when they are packed."""
        wide = max(1, min(self.blocks, sums // (self.pairs * SUMS * 2)))
        deep = max(1, min(most, packed // ((self.pairs + wide) * PAIR * 2)))
        return self._replace(wide=wide, deep=deep)


def weights(target: Target, s: GradientSizes) -> KernelBuilder:
    """Return the kernel that writes the gradients of some blocks of 32 gates in float32: dgates,
    those of states where there are `others`, inputs, states, the first state; dw_ih (gates,
    inputs), dw (gates, size), db, db of states where there are others; room; the first block, how
    many, the steps, the first one and how far it is to the next, and the numbers between the inputs
    of two steps."""
    names = ("dgates", "dstates", "x", "hs", "h", "dw_ih", "dw", "db", "db_hh", "room")
    k = KernelBuilder(target, "bfloat16", names, INTEGERS)
    writer = _Writer(k, s)
    steps = writer.at["steps"]
    total = k.times(steps, blocks(s.rows, GROUP))
    with k.loop(parts_of(k, total, s.deep)) as part:
        begin = k.times(part, s.deep)
        count = k.least(s.deep, k.builder.sub(total, begin))
        with k.loop(count) as i:
            writer.pack(k.sum(begin, i), i)
        writer.multiply(part, count)
    writer.tiles.release()
    writer.write()
    return k


class _Writer:
    """Writes what packs blocks of rows, and their products."""

    def __init__(self, k: KernelBuilder, s: GradientSizes) -> None:
        self.k, self.s = k, s
        self.at = dict(zip((*k.pointers, *INTEGERS), k.arguments, strict=True))
        self.tiles = Tiles(k, [(ROWS, BYTES)] * 8)
        self.nothing = k.room(BYTES)
        store(k, ir.Constant(WORDS, [0] * ROWS), self.nothing)
        room = self.at["room"]
        self.left, self.right = room, k.at(room, s.pairs * s.line)
        self.sums = k.at(self.right, s.wide * s.line)  # [block][pair][2][2][tile]

    def pack(self, number: Integer, to: Integer) -> None:
        """Pack a block of rows of a step, the `to`-th of those that are packed."""
        k, s = self.k, self.s
        hs, h, count, steps, start, way = (
            self.at[name] for name in ("hs", "h", "count", "steps", "start", "way")
        )
        group = k.builder.udiv(number, steps)
        t = k.builder.sub(number, k.times(group, steps))
        row = k.times(k.builder.sub(k.integer(blocks(s.rows, GROUP) - 1), group), GROUP)
        rows = k.builder.sub(k.integer(s.rows), row)
        begins = k.builder.icmp_signed("==", t, start)
        before = k.at(hs, (k.builder.sub(t, way), s.rows * s.size))
        before = k.at(k.builder.select(begins, h, before), (row, s.size))
        place = k.at(self.left, (to, PAIR))
        x = k.at(self.at["x"], (t, self.at["far"]), (row, s.apart))
        self._channels(x, s.apart, s.inputs, rows, place, True)
        self._channels(before, s.size, s.size, rows, k.at(place, s.seen * s.line), False)
        with k.loop(count) as j:
            dgates, block = self._gates(j)
            top = k.at(dgates, (t, s.rows * s.gates), (row, s.gates), (block, GROUP))
            lines = self._lines(top, s.gates, GROUP, rows)
            place = k.at(self.right, (j, s.line), (to, PAIR))
            for p in range(ROWS):
                for half, value in enumerate(paired(k, *lines[2 * p : 2 * p + 2])):
                    store(k, value, k.at(place, half * PLACE + p * GROUP))

    def _gates(self, j: Integer) -> tuple[Any, Integer]:
        """Return the array and the block of gates that the `j`-th block of a call is from."""
        k, s, block = self.k, self.s, self.k.sum(self.at["first"], j)
        if not s.others:
            return self.at["dgates"], block
        last = self._only(j, "states")
        dgates = k.builder.select(last, self.at["dstates"], self.at["dgates"])
        return dgates, k.builder.select(last, k.sum(block, -s.size // GROUP), block)

    def _only(self, j: Integer, side: str) -> Any:
        """Return a flag: whether gates are those of inputs alone, or of states alone."""
        k, s = self.k, self.s
        end = s.gates // GROUP
        block = k.integer(k.sum(self.at["first"], j))
        last = k.builder.icmp_signed(">=", block, k.integer(end))
        if side == "states":
            return last
        late = k.builder.icmp_signed(">=", block, k.integer(end - s.size // GROUP))
        return k.builder.and_(late, k.builder.not_(last))

    def _where(self, j: Integer, side: str) -> AbstractContextManager[None]:
        """Run a block where gates are those of inputs, or of states."""
        if not self.s.others:
            return nullcontext()
        other = "states" if side == "inputs" else "inputs"
        return self.k.where(self.k.builder.not_(self._only(j, other)))

    def _channels(self, x: Any, apart: int, size: int, rows: Integer, to: Any, one: bool) -> None:
        """Pack rows of so many numbers, turned round, perhaps with a `one` behind them."""
        k, (whole, rest) = self.k, divmod(size, GROUP)
        if whole:
            with k.loop(whole) as i:
                place = k.at(to, (i, self.s.line))
                self._turned(k.at(x, (i, GROUP)), apart, GROUP, rows, place, None)
        if one:
            self._turned(
                k.at(x, whole * GROUP), apart, rest, rows, k.at(to, whole * self.s.line), rest
            )

    def _turned(
        self, x: Any, apart: int, size: int, rows: Integer, to: Any, one: int | None
    ) -> None:
        """Pack up to 32 numbers of rows, perhaps with ones in the place `one` of numbers."""
        k = self.k
        for tile in range(2):
            there = min(ROWS, max(0, size - tile * ROWS))
            lines = self._lines(k.at(x, tile * ROWS), apart, there, rows, numbers)
            for c, value in enumerate(packed_tile(k, lines, turned=True), tile * ROWS):
                store(k, ONES if c == one else value, k.at(to, c * GROUP))

    def _lines(self, x: Any, apart: int, size: int, rows: Integer, read: Read = load) -> list[Any]:
        """Return so many numbers of each of 32 rows, zeros for rows that are not there."""
        k, lines = self.k, [self.k.at(x, r * apart) for r in range(GROUP)]
        if self.s.rows % GROUP:
            lines = [
                k.builder.select(k.positive(k.builder.sub(rows, k.integer(r))), at, self.nothing)
                for r, at in enumerate(lines)
            ]
        return [read(k, at, size) for at in lines]

    def _pairs(self, j: Integer) -> Iterator[tuple[Integer, int]]:
        """Loop over pairs of tiles of channels that a block of gates meets: yield each, and how
        many of its tiles count. All gates meet the pair that holds the one."""
        k, s = self.k, self.s
        whole, rest = divmod(s.inputs, GROUP)
        for first, count, tiles, there in (
            (0, whole, 2, self._where(j, "inputs")),
            (whole, 1, blocks(rest + 1, ROWS), nullcontext()),
            (s.seen, s.size // GROUP, 2, self._where(j, "states")),
        ):
            if count:
                with there, k.loop(count) as i:
                    yield k.sum(i, first), tiles

    def _places(self, j: Integer, c: Integer, tiles: int) -> list[Any]:
        """Return where sums of a block of gates and a pair of tiles of channels lie."""
        at = self.k.at(self.sums, (j, self.s.pairs * SUMS), (c, SUMS))
        return [self.k.at(at, tile * TILE // 2) for tile in range(2 * tiles)]

    def multiply(self, part: Integer, many: Integer) -> None:
        """Add the products of the blocks that are packed to the sums, which begin with the first
        ones."""
        k, s = self.k, self.s
        with k.loop(self.at["count"]) as j:
            top = k.at(self.right, (j, s.line))
            for c, channels in self._pairs(j):
                places, line = self._places(j, c, channels), k.at(self.left, (c, s.line))
                self.tiles.resume(k.none(part), places)
                with k.loop(many) as b:
                    for i in range(channels):
                        self.tiles.operand(4 + i, k.at(line, (b, PAIR), i * PLACE))
                        if not i:
                            for g in (0, 1):
                                self.tiles.operand(6 + g, k.at(top, (b, PAIR), g * PLACE))
                        self.tiles.dots([2 * i, 2 * i + 1], 4 + i, [6, 7])
                for tile, place in enumerate(places):
                    self.tiles.store(tile, place)

    def write(self) -> None:
        """Write the sums to the gradients."""
        k, s, wide = self.k, self.s, self.k.computed()
        with k.loop(self.at["count"]) as j, k.loop(2) as half:
            sums = k.at(self.sums, (j, s.pairs * SUMS), (half, PLACE))
            ones = k.at(sums, s.inputs // ROWS * SUMS // 2 + s.inputs % ROWS * GROUP)
            gate = k.sum((self._gates(j)[1], GROUP), (half, ROWS))
            for side, w, b, size, tile in (
                ("inputs", "dw_ih", "db", s.inputs, 0),
                ("states", "dw", "db_hh", s.size, 2 * s.seen),
            ):
                with self._where(j, side):
                    self._write(sums, tile, size, self.at[w], gate)
                    if side == "inputs" or s.others:
                        wide.store(wide.load(ones), wide.at(self.at[b], gate))

    def _write(self, sums: Any, tile: int, size: int, array: Any, gate: Integer) -> None:
        """Write the sums of 16 gates and so many channels, from a tile on."""
        k, wide = self.k, self.k.computed()
        for begin, times, some in pieces(size, ROWS):
            with k.loop(times) as c:
                at = k.at(sums, (c, SUMS // 2), (tile + begin // ROWS) * SUMS // 2)
                for r, row in enumerate(columns_of(wide, at, ROWS, ROWS, ROWS)):
                    place = wide.at(array, (gate, size), (c, ROWS), begin + r * size)
                    wide.store(row, place, some)
