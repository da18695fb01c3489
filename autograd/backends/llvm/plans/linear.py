"""Matrix products and fully connected layers: which kernel, and how threads share it.

The plan decides by shape. NumPy's own products are kept for small matrices, where a call costs more
than the arithmetic, for large ones, and for memory that lies in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import computed_in, is_narrow
from ....threads import WORTHWHILE, share
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.elementwise import converted
from ..kernels.epilogue import IMAGES, NOTHING, TOTALS, Epilogue
from ..kernels.matmul import MatmulTile, MatrixProduct, Order, multiply, room
from ..kernels.matvec import times_vector
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, layout_stats, plain
from ..runtime.parallel import Scratch

LEAST = 1 << 14  # multiply-accumulates from which a kernel's call pays
LARGE = 1024  # as long as all axes are at least, NumPy's product is as fast
NEAR = 1 << 15  # bytes of a panel that stay in the first-level cache
FEW = 3  # rows from which a product is more than a matrix times a vector
VECTOR = 1 << 12  # numbers of a matrix from which that with one row pays
SPREAD = 1 << 14  # numbers of a row that the lanes of one vector add up without losing digits
LONG = 1 << 13  # bytes of a row from which on it matters how many rows are visited in turn
FLAT = 32  # rows of a matrix that are visited in turn
BLOCKED = 1 << 18  # bytes of panels that stay in the second-level cache
COPIED = 32  # rows from which a copied panel pays
WIDENED = 4  # panels up to which a narrow matrix is widened for each of them
BLOCK = 32  # rows that a thread takes at least
PANELS = 8  # from so many on, threads take panels

Sizes: TypeAlias = tuple[int, int, int]  # rows, inner axis, columns
Run: TypeAlias = Callable[..., None]  # gets addresses: x, w, bias, y and what follows


def tile(target: Target, p: MatrixProduct, rows: int) -> MatmulTile:
    """Return the tile that wastes the least of the registers and of the last rows and columns."""
    lanes = target.lanes(p.dtype)
    whole = -(-p.columns // lanes)

    def cost(pair: tuple[int, int]) -> float:
        high, wide = pair
        parts = [(high, rows // high), (rows % high, 1)]
        strips = [(wide, whole // wide), (whole % wide, 1)]
        # Two multiplications in a cycle, and a sum waits four for the one before; loads, of which
        # those of vectors weigh more, are not quite hidden.
        return sum(
            m * n * (max(r * v / 2, 4.0) + r / 4 + v / 2)
            for r, m in parts
            for v, n in strips
            if r and v
        )

    # One register holds the broadcast number of a; each row of the panel takes `wide` more.
    room = target.registers - 1
    pairs = [(high, room // (high + 1)) for high in (8, 6, 14, 4, 2, 1) if high < room // 2]
    high, wide = min(pairs, key=cost)
    wide = min(wide, whole)
    size = np.dtype(p.dtype).itemsize
    line = wide * lanes * size
    # As deep as a panel stays in the first level, but at least 128: between two pieces of the inner
    # axis the sums go to memory and back.
    chosen = MatmulTile(high, wide, max(128, NEAR // line // 32 * 32), 2, rows >= COPIED)
    if p.turned or p.y_turned or p.columns * size < LONG:
        return chosen
    if chosen.copied and p.inner <= chosen.depth:
        return chosen._replace(order=Order.ROWS, block=max(1, BLOCKED // (line * p.inner)))
    return chosen._replace(order=Order.INNER, depth=chosen.depth if chosen.copied else FLAT)


class _SharedProduct:
    """A product of rows (n, inner) and columns, and how it is split for threads.

    Threads take panels, or blocks of rows where there are few panels; the split does not depend on
    their number. Sums over a channel in the epilogue must be made by one thread, which decides
    between the two.
    """

    def __init__(
        self, target: Target, p: MatrixProduct, rows: int, epilogue: Epilogue = NOTHING
    ) -> None:
        t = tile(target, p, rows)
        self.p = p = p._replace(rest=rows % t.rows)
        # Rows of b that several tiles read are widened once.
        t = t._replace(copied=t.copied or ("b" in p.narrow and rows > t.rows))
        self.function = build(multiply, target, p, t, epilogue)
        self.names = epilogue.pointers
        self.size = np.dtype(p.dtype).itemsize
        halved = [self.size // (1 + (name in p.narrow)) for name in "ab+y"]
        self.a_size, self.b_size, self.bias_size, self.y_size = halved
        self.width = t.vectors * target.lanes(p.dtype)
        self.panels = p.columns // self.width, int(p.columns % self.width > 0)
        self.tiles = rows // t.rows, int(p.rest > 0)
        self.room = Scratch(room(p, t, target.lanes(p.dtype), rows), p.dtype)
        self.shared = rows * p.inner * p.columns >= WORTHWHILE
        self.block = -(-BLOCK // t.rows)
        self.high = self.block * t.rows
        self.by_panels = sum(self.panels) >= PANELS or rows < 2 * self.high
        if epilogue.moments or epilogue.sums:
            self.by_panels = not p.y_turned

    def run(self, a: int, b: int, bias: int, y: int, *more: int) -> None:
        """Multiply arrays at these addresses."""
        if not self.shared:
            own = self.room.address(0), *more
            self.function(a, b, bias, y, *own, *self.tiles, *self.panels)
        elif self.by_panels:
            self._share_panels(a, b, bias, y, more)
        else:
            self._share_rows(a, b, bias, y, more)

    def _further(self, more: Sequence[int], pixels: int, channels: int) -> list[int]:
        """Return the addresses of the epilogue's arrays for a part of y.

        Arrays like y advance by `pixels` numbers, those of channels by `channels`, and sums, which
        are float64, too.
        """
        steps = pixels * self.size, channels * 8, channels * self.size
        return [
            a + steps[0 if name in IMAGES else 1 if name in TOTALS else 2]
            for name, a in zip(self.names, more, strict=True)
        ]

    def _share_panels(self, a: int, b: int, bias: int, y: int, more: Sequence[int]) -> None:
        p, (whole, end) = self.p, self.panels

        def work(first: int, last: int, worker: int) -> None:
            start = first * self.width
            each, far = start * (not p.y_turned), start * (p.height if p.y_turned else 1)
            self.function(
                a, b + start * (p.inner if p.turned else 1) * self.b_size,
                bias + each * self.bias_size, y + far * self.y_size, self.room.address(worker),
                *self._further(more, far, each), *self.tiles, min(last, whole) - first,
                int(last > whole),
            )  # fmt: skip

        share(whole + end, work)

    def _share_rows(self, a: int, b: int, bias: int, y: int, more: Sequence[int]) -> None:
        p, (whole, tail) = self.p, self.tiles

        def work(first: int, last: int, worker: int) -> None:
            start = first * self.high
            tiles = min(last * self.block, whole) - first * self.block
            each, far = start * p.y_turned, start * (1 if p.y_turned else p.columns)
            self.function(
                a + start * p.steps[0] * self.a_size, b, bias + each * self.bias_size,
                y + far * self.y_size, self.room.address(worker),
                *self._further(more, far, each), tiles, tail * (last == parts), *self.panels,
            )  # fmt: skip

        parts = -(-(whole + tail) // self.block)
        share(parts, work)


def _narrow_product(target: Target, p: MatrixProduct, rows: int, wide: bool) -> Run:
    """Return the function of a product of narrow matrices, as that of `_SharedProduct`, whose
    result is narrow or `wide`. Its sums run as in the wide type, so it has the bits of a wide
    product that is rounded.

    The kernel widens and rounds, except for a matrix whose rows do not have their numbers side by
    side or pass by many panels, and for sums that go to memory before they are complete.
    """
    size, t, stored = rows * p.inner, tile(target, p, rows), "bfloat16"
    panels = -(-p.columns // (t.vectors * target.lanes(p.dtype)))
    inside = p.steps[1] == 1 and panels <= WIDENED
    rounded = not wide and not p.y_turned and p.inner > t.depth
    names = "b+" + "a" * inside + "y" * (not wide and not rounded)
    product = _SharedProduct(target, p._replace(narrow=names), rows).run
    widen = build(converted, target, (stored, p.dtype))
    narrow = build(converted, target, (p.dtype, stored))
    left = Scratch(size * (not inside), p.dtype)
    result = Scratch(rows * p.columns * rounded, p.dtype)

    def run(a: int, b: int, bias: int, y: int) -> None:
        if not inside:
            widen(a, left.address(0), size)
            a = left.address(0)
        product(a, b, bias, result.address(0) if rounded else y)
        if rounded:
            narrow(result.address(0), y, rows * p.columns)

    return run


def _products(
    target: Target, sizes: Sizes, dtype: str, x_turned: bool, w_turned: bool, biased: bool = False,
    epilogue: Epilogue = NOTHING, wide: bool = False,
) -> Run:  # fmt: skip
    """Return the function of y = x w: x (n, c) or turned, w (c, m) or turned, addresses of x, w,
    bias, y and what follows. The smaller of x with y, and w, is turned round for lanes to lie along
    it. Of narrow matrices y is `wide` if asked for."""
    n, c, m = sizes
    computed = computed_in(np.dtype(dtype)).name

    def made(p: MatrixProduct, rows: int) -> Run:
        if computed != dtype:
            return _narrow_product(target, p, rows, wide)
        return _SharedProduct(target, p, rows, epilogue).run

    if w_turned and not x_turned and n * (c + m) < c * m:
        other = made(MatrixProduct(computed, c, n, 0, (c, 1), True, True, m, biased), m)
        return lambda x, w, bias, y, *more: other(w, x, bias, y, *more)
    steps = (1, n) if x_turned else (c, 1)
    return made(MatrixProduct(computed, c, m, 0, steps, w_turned, biased=biased), n)


def _pays(sizes: Sizes, m_least: int) -> bool:
    """Tell whether a kernel is faster than NumPy's product."""
    n, _, m = sizes
    return prod(sizes) >= LEAST and min(sizes) < LARGE and n >= FEW and m >= m_least


@implements("linear", narrow=True)
def linear(
    target: Target, x: Spec, w: Spec, *b: Spec, epilogue: Epilogue = NOTHING
) -> Executable | None:
    """Plan a fully connected layer, and what follows, whose arrays come last; all rows of y
    together are an image. Nothing follows on narrow types."""
    (m, c), n = w.shape, prod(x.shape[:-1])
    if any(s.dtype != x.dtype for s in (w, *b)) or (is_narrow(x.dtype) and any(epilogue)):
        return None
    function: Run
    if n == 1 and VECTOR <= c * m < WORTHWHILE and c < SPREAD and not any(epilogue):
        function = build(times_vector, target, x.dtype.name, m, c, bool(b))
    elif _pays((n, c, m), target.lanes(x.dtype) // 2):
        function = _products(target, (n, c, m), x.dtype.name, False, True, bool(b), epilogue)
    else:
        return None
    shape, biases = (*x.shape[:-1], m), len(b)

    def run(x: NDArray, w: NDArray, *more: NDArray) -> NDArray:
        left, right, y = plain(x), plain(w), memory.empty(shape, x.dtype)
        # Without a bias any address will do in its place: the kernel does not read it.
        others = [*map(plain, more)] if biases else [y, *map(plain, more)]
        bias, *rest = map(address, others)
        function(address(left), address(right), bias, address(y), *rest)
        return y

    return Executable(run, native=True)


@implements("matmul", narrow=True)
def matmul(
    target: Target, x: Spec, w: Spec, *, wide: bool = False, epilogue: Epilogue = NOTHING
) -> Executable | None:
    """Plan a product with one matrix, in whichever of both ways each of the two lies, and what
    follows, as for `linear`; `wide` is the result of narrow matrices in the type of the sums."""
    n, c, m = prod(x.shape[:-1]), x.shape[-1], w.shape[-1]
    copies = is_narrow(x.dtype) or any(epilogue)
    fits = len(w.shape) == 2 and x.dtype == w.dtype and not (is_narrow(x.dtype) and any(epilogue))
    if not fits or not _pays((n, c, m), target.lanes(x.dtype) // 2):
        return None
    shape, flat, name = (*x.shape[:-1], m), len(x.shape) == 2, x.dtype.name
    dtype, ways = computed_in(x.dtype) if wide else x.dtype, dict[tuple[bool, bool], Run]()

    def run(x: NDArray, w: NDArray, *more: NDArray) -> NDArray:
        y = memory.empty(shape, dtype)
        x_turned, w_turned = not x.flags.c_contiguous, not w.flags.c_contiguous
        if (x_turned and not (flat and x.flags.f_contiguous)) or (
            w_turned and not w.flags.f_contiguous
        ):
            if copies:
                return run(plain(x), plain(w), *more)
            layout_stats.fallbacks += 1
            return np.matmul(x, w, out=y)
        way = ways.get((x_turned, w_turned))
        if way is None:
            way = _products(target, (n, c, m), name, x_turned, w_turned, False, epilogue, wide)
            ways[x_turned, w_turned] = way
        rest = [*map(plain, more)]
        way(address(x), address(w), 0, address(y), *map(address, rest))
        return y

    return Executable(run, native=True)
