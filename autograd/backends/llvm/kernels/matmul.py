"""Matrix products: a tile of the result stays in registers while the inner axis runs.

Loops, from the outside: panels (some vectors of columns of b), pieces of the inner axis, tiles of
rows, the inner axis. In registers are the sums of a tile (rows x vectors), one row of the panel and
one broadcast number of a: `plans/linear.tile` chooses rows and vectors so that these fit.

- A panel is copied so that its numbers lie side by side in the first-level cache (32 KB,
  `plans/linear.NEAR`), and transposed where b is given by columns; then all rows pass by it.
- Long rows lie on pages of their own, of which a TLB knows few. Where each panel would visit all
  of them, panels are gone through within some rows of b (`Order.INNER`), or several copied panels
  within each tile of rows (`Order.ROWS`), which stay in the second-level cache.
- `y_turned` computes the transpose: sums go to scratch memory, and are transposed panel by panel.
- Matrices of bfloat16 (`narrow`) are widened once for each time that they pass: b where panels are
  copied, a block by block of rows before the loop over the inner axis. y is rounded when it is
  written, so its sums must be complete by then.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ....dtypes import bfloat16
from ..compiler.bfloat import halves
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, Term, pieces
from ..compiler.transpose import columns_of, turn
from ..compiler.vectors import Variable, Vector
from .epilogue import NOTHING, Epilogue, Tail

Numbers: TypeAlias = tuple[Any, tuple[Term, ...], int]


class MatrixProduct(NamedTuple):
    """y[i, j] = the sum over k of a[i, k] b[k, j], for any number of rows that leaves the same
    rest."""

    dtype: str
    inner: int  # length of the axis that is summed over
    columns: int  # of y
    rest: int  # rows of y behind whole tiles
    steps: tuple[int, int]  # numbers from one row of a to the next, and along its inner axis
    turned: bool = False  # b lies column by column
    y_turned: bool = False  # y lies column by column
    height: int = 0  # all rows of a y that is turned
    biased: bool = False  # y starts from numbers along the axis that lies in vectors at the end
    narrow: str = ""  # which of a, b, y lie in bfloat16; with "+", which stands for it, the bias


class Order(Enum):
    """What the outer loop is over."""

    PANELS = "panels"
    INNER = "pieces of the inner axis"
    ROWS = "tiles of rows, the panels of a block in each"


class MatmulTile(NamedTuple):
    """How a product is blocked, see the head of this file."""

    rows: int  # of y, in registers
    vectors: int  # of columns, in registers
    depth: int  # piece of the inner axis that is worked on at a time
    unroll: int  # steps of the inner axis in one turn of the loop
    copied: bool  # panels are copied before rows pass by them
    order: Order = Order.PANELS  # what the outer loop is over
    block: int = 1  # panels copied together (Order.ROWS)


def room(p: MatrixProduct, tile: MatmulTile, lanes: int, rows: int) -> int:
    """Return how many numbers of scratch memory `multiply` needs for so many rows: the copied
    panels, the sums of one panel where y is turned, and a block of a that is widened."""
    width = tile.vectors * lanes
    panels = width * (tile.block * min(tile.depth, p.inner) + (rows + lanes) * p.y_turned)
    return panels + _block(p, tile, lanes)


def _half(p: MatrixProduct, tile: MatmulTile, lanes: int) -> int:
    """Return how much room every second number of a row takes in a block of a that is widened."""
    return -(-min(tile.depth, p.inner) // (2 * lanes)) * lanes


def _block(p: MatrixProduct, tile: MatmulTile, lanes: int) -> int:
    """Return how many numbers a block of a that is widened has."""
    return tile.rows * 2 * _half(p, tile, lanes) if "a" in p.narrow else 0


class _MatmulWriter:
    """Writes the kernel, a method for each loop. `counts` are the numbers in each vector of a
    panel: the last one of the last panel may be partly filled."""

    def __init__(
        self, k: KernelBuilder, p: MatrixProduct, tile: MatmulTile, epilogue: Epilogue
    ) -> None:
        self.k, self.p, self.t = k, p, tile
        self.a, self.b, self.bias, self.y, room, *more = k.arguments[:-4]
        self.tiles, self.tail = k.arguments[-4:-2]
        channels = p.height if p.y_turned else p.columns
        # All of y is one image.
        self.after = Tail(k, epilogue, more, 0, channels) if any(epilogue) else None
        self.width = tile.vectors * k.lanes
        self.of = {name: k.on(bfloat16()) if name in p.narrow else k for name in "ab+y"}
        self.block, self.half = room, _half(p, tile, k.lanes)
        self.room = k.at(room, _block(p, tile, k.lanes))
        # Behind the copied panel; used only where y is turned.
        self.sums = k.at(self.room, min(tile.depth, p.inner) * self.width)

    def run(self, panels: Integer, end: Integer) -> None:
        """Multiply all rows with so many whole panels, and with the last columns if they follow."""
        if self.t.order is Order.INNER:
            self._over_inner(lambda *piece: self._over_panels(panels, end, self._piece, *piece))
        elif self.t.order is Order.ROWS:
            self._over_blocks(panels)
            self._last_columns(panels, end, self._panel)
        else:
            self._over_panels(panels, end, self._panel)

    def _over_panels(
        self, panels: Integer, end: Integer, body: Callable[..., None], *piece: Any
    ) -> None:
        """Write down `body` for so many whole panels, and for the last columns behind them."""
        k = self.k
        if self.p.columns >= self.width:
            with k.where(k.positive(panels)), k.loop(panels) as i:
                body(k.times(i, self.width), self._counts(self.width), *piece)
        self._last_columns(panels, end, body, *piece)

    def _last_columns(
        self, panels: Integer, end: Integer, body: Callable[..., None], *piece: Any
    ) -> None:
        """Write down `body` for the columns behind so many panels, if they follow."""
        k, rest = self.k, self.p.columns % self.width
        if rest:
            with k.where(k.positive(end)):
                body(k.times(panels, self.width), self._counts(rest), *piece)

    def _counts(self, columns: int) -> list[int]:
        return [n for _, times, n in pieces(columns, self.k.lanes) for _ in range(times)]

    def _over_inner(self, body: Callable[[Integer, int, bool], None]) -> None:
        """Write down `body` for each piece of the inner axis: its first place, its size, and
        whether sums are ready behind it."""
        for first, times, depth, last in self._stretches():
            with self.k.loop(times) as i:
                body(self.k.sum((i, self.t.depth), first), depth, last)

    def _panel(self, start: Integer, counts: list[int]) -> None:
        """Multiply all rows with the columns from `start` on."""
        self._over_inner(partial(self._piece, start, counts))
        if self.p.y_turned:
            self._finish(start, counts)

    def _piece(
        self, start: Integer, counts: list[int], inner: Integer, depth: int, last: bool
    ) -> None:
        """Add what a piece of the inner axis gives for a panel to all rows."""
        source, step = self._source(start, inner, depth, counts)

        def body(row: Integer, rows: int, ahead: Any) -> None:
            self._tile(rows, (row, start, inner), depth, counts, source, step, last, ahead)

        self._over_tiles(body, lambda tile: self._ahead(tile, start, inner))

    def _over_tiles(
        self, body: Callable[[Integer, int, Any], None], ahead: Callable[[Integer], Any]
    ) -> None:
        """Write down `body` for the tiles of all rows: the first row, their number, and what is
        asked for meanwhile."""
        k, rows = self.k, self.t.rows
        with k.where(k.positive(self.tiles)), k.loop(self.tiles) as j:
            body(k.times(j, rows), rows, ahead(j))
        if self.p.rest:
            with k.where(k.positive(self.tail)):
                body(k.times(self.tiles, rows), self.p.rest, None)

    def _over_blocks(self, panels: Integer) -> None:
        """Multiply all rows with whole panels, some of which are copied before; the inner axis is
        one piece."""
        k, depth, many, counts = self.k, self.p.inner, self.t.block, self._counts(self.width)
        blocks = k.builder.udiv(k.sum(panels, many - 1), k.integer(many))
        with k.where(k.positive(panels)), k.loop(blocks) as b:
            first = k.times(b, many)
            some = k.least(many, k.builder.sub(k.integer(panels), k.integer(first)))

            def at(i: Integer) -> tuple[Integer, Any]:
                return k.times(k.sum(first, i), self.width), (i, depth * self.width)

            with k.loop(some) as i:
                start, slot = at(i)
                self._copy(self.of["b"].at(self.b, start), depth, counts, k.at(self.room, slot))

            def body(row: Integer, rows: int, ahead: Any) -> None:
                with k.loop(some) as i:
                    start, slot = at(i)
                    source = k.at(self.room, slot)
                    at_ = (row, start, k.integer(0))
                    self._tile(rows, at_, depth, counts, source, self.width, True, ahead)

            self._over_tiles(body, lambda tile: None)

    def _stretches(self) -> list[tuple[int, int, int, bool]]:
        """Return pieces of the inner axis, and whether sums are ready behind one. Where something
        follows then, the last piece stands alone."""
        *whole, (first, times, depth) = pieces(self.p.inner, self.t.depth)
        if self.after is not None and not self.p.y_turned and times > 1:
            whole.append((first, times - 1, depth))
            first, times = first + (times - 1) * depth, 1
        return [*((*piece, False) for piece in whole), (first, times, depth, times == 1)]

    def _source(
        self, start: Integer, inner: Integer, depth: int, counts: list[int]
    ) -> tuple[Any, int]:
        """Return where the panel of b is, and how far apart its rows are."""
        k, p, stored = self.k, self.p, self.of["b"]
        if p.turned:
            for v, n in enumerate(counts):
                for first, times, size in pieces(depth, k.lanes):
                    with k.loop(times) as i:
                        index = k.sum((i, k.lanes), first)
                        far = index, v * k.lanes * p.inner
                        begin = stored.at(self.b, (start, p.inner), inner, *far)
                        to = k.at(self.room, (index, self.width), v * k.lanes)
                        self._turned(begin, n, size, to)
            return self.room, self.width
        begin = stored.at(self.b, (inner, p.columns), start)
        if not self.t.copied:
            return begin, p.columns
        self._copy(begin, depth, counts, self.room)
        return self.room, self.width

    def _copy(self, begin: Any, depth: int, counts: list[int], to: Any) -> None:
        k, stored = self.k, self.of["b"]
        with k.loop(depth) as i:
            for v, n in enumerate(counts):
                value = stored.load(stored.at(begin, (i, self.p.columns), v * k.lanes), n)
                k.store(value, k.at(to, (i, self.width), v * k.lanes))

    def _ahead(self, tile: Integer, start: Integer, inner: Integer) -> Any:
        """Return where the next panel's vectors are that are asked for while a tile is worked on,
        line by line: memory in short pieces far apart is too slow otherwise."""
        if self.p.turned or not self.t.copied:
            return None
        k = self.k
        # One vector of the next panel for each tile; later tiles ask for the last again.
        vector = k.least(tile, self.t.vectors - 1)
        far = (vector, k.lanes), self.width
        return self.of["b"].at(self.b, (inner, self.p.columns), start, *far)

    def _turned(self, begin: Any, rows: int, size: int, to: Any) -> None:
        for i, value in enumerate(columns_of(self.of["b"], begin, self.p.inner, rows, size)):
            self.k.store(value, self.k.at(to, i * self.width))

    def _tile(
        self, rows: int, at: tuple[Integer, Integer, Integer], depth: int, counts: list[int],
        source: Any, step: int, last: bool, ahead: Any = None,
    ) -> None:  # fmt: skip
        """Multiply some rows with a panel, over a piece of the inner axis, and write the sums. `at`
        is the first row, column and place of the inner axis."""
        k, (along, down) = self.k, self.p.steps
        row, start, inner = at
        sums = [[k.variable() for _ in counts] for _ in range(rows)]
        stored = k if self.p.y_turned else self.of["y"]
        addresses = self._addresses(row, start, rows, len(counts))
        self._start(sums, counts, start, inner)
        left = self.of["a"].at(self.a, (row, along), (inner, down))
        if "a" in self.p.narrow:
            self._widen(left, rows, depth)
        for first, times, size in pieces(depth, self.t.unroll):
            with k.loop(times) as i:
                index = k.sum((i, self.t.unroll), first)
                for u in range(size):
                    if "a" in self.p.narrow:
                        numbers = self.block, (i, first // 2 + u * self.half), 2 * self.half
                    else:
                        numbers = left, ((index, down), u * down), along
                    self._step(sums, counts, numbers, source, step, (index, u), ahead)
        self._add_before(sums, addresses, counts, inner)
        values = [[total.get() for total in line] for line in sums]
        if last and self.after is not None and not self.p.y_turned:
            self._follow(self.after, values, row, start, counts)
        for line, to in zip(values, addresses, strict=True):
            for value, at_y, n in zip(line, to, counts, strict=True):
                stored.store(value, at_y, n)

    def _widen(self, begin: Any, rows: int, depth: int) -> None:
        """Widen a block of a, whose rows have their numbers side by side: for each row the first,
        third .. number, then the others, which needs no shuffles, and suits two steps in a turn of
        the loop."""
        k, (along, _) = self.k, self.p.steps
        for first, times, size in pieces(depth, 2 * k.lanes):
            with k.loop(times) as i:
                for r in range(rows):
                    at = self.of["a"].at(begin, (i, 2 * k.lanes), first + r * along)
                    for u, half in enumerate(halves(self.of["a"], at, size)):
                        to = (i, k.lanes), first // 2 + (2 * r + u) * self.half
                        k.store(half, k.at(self.block, *to))

    def _addresses(self, row: Integer, start: Integer, rows: int, vectors: int) -> list[list[Any]]:
        """Return where each vector of a tile's sums goes: in y, or where y is turned, in scratch
        memory, from which `_finish` turns a whole panel."""
        k = self.k
        begin, length = self.sums, self.width
        if not self.p.y_turned:
            k = self.of["y"]
            begin, length = k.at(self.y, start), self.p.columns
        return [
            [k.at(begin, (row, length), r * length + v * k.lanes) for v in range(vectors)]
            for r in range(rows)
        ]

    def _step(
        self, sums: list[list[Variable]], counts: list[int], numbers: Numbers, source: Any,
        step: int, at: tuple[Integer, int], ahead: Any,
    ) -> None:  # fmt: skip
        """Add the products of one place of the inner axis, `at` a turn of the loop and a place in
        it. `numbers` are those of a: a pointer, terms that lead to the first row's, and how far
        apart rows are."""
        (index, u), k, (left, terms, apart) = at, self.k, numbers
        if ahead is not None:
            to = self.of["b"].at(ahead, (index, self.p.columns), u * self.p.columns)
            k.prefetch(to, near=2)
        # A copied panel is filled up with zeros: whole vectors may be read.
        whole = self.t.copied or self.p.turned
        stored = k if whole else self.of["b"]
        beside = [
            stored.load(
                stored.at(source, (index, step), u * step + v * k.lanes), None if whole else n
            )
            for v, n in enumerate(counts)
        ]
        for r, line in enumerate(sums):
            x = k.broadcast(k.at(left, *terms, r * apart))
            for total, w in zip(line, beside, strict=True):
                total.set(k.fma(x, w, total.get()))

    def _follow(
        self, after: Tail, values: list[list[Vector]], row: Integer, start: Integer,
        counts: list[int],
    ) -> None:  # fmt: skip
        """Apply the epilogue to a tile's sums, in place."""
        k, length = self.k, self.p.columns
        for v, n in enumerate(counts):
            channel = k.sum(start, v * k.lanes)
            done = after.finish(
                {(r, 0): line[v] for r, line in enumerate(values)}, 0, ((row, length), channel),
                lambda pixel: pixel[0] * length, channel, n, k.none(row),
            )  # fmt: skip
            for r, line in enumerate(values):
                line[v] = done[r, 0]

    def _start(
        self, sums: list[list[Variable]], counts: list[int], start: Integer, inner: Integer
    ) -> None:
        """Let the first sums begin with the bias."""
        k = self.k
        if self.p.biased and not self.p.y_turned:
            with k.where(k.builder.not_(k.positive(inner))):
                for v, n in enumerate(counts):
                    bias = self.of["+"]
                    value = bias.load(bias.at(self.bias, start, v * k.lanes), n)
                    for line in sums:
                        line[v].set(value)

    def _add_before(
        self, sums: list[list[Variable]], addresses: list[list[Any]], counts: list[int],
        inner: Integer,
    ) -> None:  # fmt: skip
        """Add the sums over the earlier pieces of the inner axis: at the end, so that rounding
        errors stay those of short sums."""
        k = self.k
        if self.p.inner > self.t.depth:
            with k.where(k.positive(inner)):
                for line, to in zip(sums, addresses, strict=True):
                    for total, address, n in zip(line, to, counts, strict=True):
                        total.set(total.get() + k.load(address, n))

    def _finish(self, start: Integer, counts: list[int]) -> None:
        """Write the sums of a panel into a y that is turned."""
        k, p, y, stored = self.k, self.p, self.of["y"], self.of["+"]
        rows = k.sum((self.tiles, self.t.rows), (self.tail, p.rest))
        with k.loop(k.builder.udiv(k.sum(rows, k.lanes - 1), k.integer(k.lanes))) as i:
            row = k.times(i, k.lanes)
            some = k.builder.sub(rows, row)
            bias = stored.load(stored.at(self.bias, row), some) if p.biased else None
            for v, n in enumerate(counts):
                begin = k.at(self.sums, (row, self.width), v * k.lanes)
                lines = [k.load(k.at(begin, r * self.width)) for r in range(k.lanes)]
                to = y.at(self.y, (start, p.height), row, v * k.lanes * p.height)
                values = {(0, j): value for j, value in enumerate(turn(k, lines)[:n])}
                if bias is not None:
                    values = {pixel: value + bias for pixel, value in values.items()}
                if self.after is not None:
                    # Along y's rows there are channels, and its columns are pixels.
                    terms = (start, p.height), row, v * k.lanes * p.height
                    # The other vectors are later pixels of the same channels.
                    begins = None if v else k.none(start)
                    values = self.after.finish(
                        values, 0, terms, lambda q: q[1] * p.height, row, some, begins
                    )
                for (_, j), value in values.items():
                    y.store(value, y.at(to, j * p.height), some)


def multiply(
    target: Target, p: MatrixProduct, tile: MatmulTile, epilogue: Epilogue = NOTHING
) -> KernelBuilder:
    """Return the kernel of a product: a, b, bias, y, scratch memory, what the epilogue takes,
    number of whole tiles of rows, whether the rest of them follows (1 or 0), number of whole
    panels, whether the last columns follow. Channels are the columns of y, or, where that is
    turned, the rows; its sums begin with the other axis, and run over all of it in float32."""
    names = ("a", "b", "bias", "y", "room", *epilogue.pointers)
    k = KernelBuilder(target, p.dtype, names, ("tiles", "tail", "panels", "end"))
    *_, panels, end = k.arguments
    _MatmulWriter(k, p, tile, epilogue).run(panels, end)
    return k
