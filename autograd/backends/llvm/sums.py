"""Sums over all axes but one, or over all of them."""

from __future__ import annotations

from math import prod

from ...array import NDArray, Spec
from ...summation import sum_over
from .elementwise import LEAST, axis_left, converted, parts_of, repeats
from .flat import Layouts, copied, increase, sweep
from .jit import build
from .language import Integer, Kernel
from .layout import Moves, address
from .memory import empty
from .parts import Scratch
from .registry import Kernel as Runner
from .registry import implements, native
from .targets import Target

BLOCK = 1 << 14  # numbers that are summed at a time: they fit in the second-level cache
WIDEST = 8  # bytes of a float64, in which sums of blocks are added up


def column_sums(target: Target, dtype: str, vectors: int) -> Kernel:
    """Return the kernel of sums over the rows of a matrix whose last row may be incomplete: matrix,
    sums in float64, number of elements, of columns, of rows in a block. Sums run in the arrays'
    type over a block, and in float64 from block to block."""
    k = Kernel(target, dtype, ("x", "y"), ("count", "columns", "block"))
    x, y, count, columns, block = k.arguments
    d = k.doubles()
    rows = k.builder.udiv(count, columns)
    last = k.builder.sub(count, k.times(rows, columns))
    beyond, width = k.at(x, (rows, columns)), vectors * k.lanes

    def start(place: Integer, some: Integer | None) -> None:
        there = k.load(k.at(beyond, place), k.builder.sub(last, k.integer(place)))
        d.store(d.convert(there), d.at(y, place), some)

    sweep(k, columns, start, unroll=1)
    with k.where(k.positive(rows)), k.loop(parts_of(k, rows, block)) as i:
        first = k.times(i, block)
        top, high = k.at(x, (first, columns)), k.least(block, k.builder.sub(rows, first))

        def chunk(place: Integer, counts: list[Integer | None]) -> None:
            places = [k.sum(place, v * k.lanes) for v in range(len(counts))]
            sums = [k.variable() for _ in counts]
            with k.loop(high) as j:
                row = k.at(top, (j, columns))
                for total, at, some in zip(sums, places, counts, strict=True):
                    total.set(total.get() + k.load(k.at(row, at), some))
            for total, at, some in zip(sums, places, counts, strict=True):
                to = d.at(y, at)
                d.store(d.load(to, some) + d.convert(total.get()), to, some)

        whole = k.builder.udiv(columns, k.integer(width))
        with k.where(k.positive(whole)), k.loop(whole) as j:
            chunk(k.times(j, width), [None] * vectors)
        done = k.times(whole, width)
        rest = k.builder.sub(columns, done)
        with k.where(k.positive(rest)), k.loop(parts_of(k, rest, k.lanes)) as j:
            chunk(k.sum(done, (j, k.lanes)), [k.builder.sub(rest, k.times(j, k.lanes))])
    return k


def _sums(target: Target, x: Spec, axis: int, shape: tuple[int, ...]) -> Runner | None:
    """Return the function of sums over all axes but one, or over all of them: into `shape`."""
    columns = prod(shape)
    if x.size < LEAST or columns == x.size:
        return None
    layouts = Layouts(x)
    others = tuple(i for i in range(len(x.shape)) if i != axis or columns == 1)
    times = repeats(columns, target.lanes(x.dtype))
    function = build(column_sums, target, x.dtype.name, 8 if target.registers == 32 else 4)
    parts, period = Scratch(times * columns, "float64"), times * columns
    block = max(16, min(64, BLOCK // period))
    add = build(increase, target, "float64")
    narrow = x.dtype.itemsize < WIDEST
    copy = build(converted, target, True) if narrow else build(copied, target, "float64")

    def run(x: NDArray) -> NDArray:
        lie = layouts.of(x)
        if lie is None or (columns > 1 and not layouts.inner(lie, axis)):
            Moves.aside += 1
            return sum_over(x, others).reshape(shape)
        to = parts.address(0)
        function(address(x), to, layouts.size, period, block)
        for row in range(1, times):
            add(to, to + row * columns * WIDEST, columns)
        y = empty(shape, x.dtype)
        copy(to, address(y), columns)
        return y

    return native(run)


@implements("sum_to")
def sum_to(target: Target, x: Spec, *, shape: tuple[int, ...]) -> Runner | None:
    """Plan the sum over the axes along which `shape` would be broadcast to x, all but one."""
    axis = axis_left(x.shape, shape)
    return None if axis is None else _sums(target, x, axis, shape)


@implements("sum")
def sum(target: Target, x: Spec, *, axes: tuple[int, ...]) -> Runner | None:
    """Plan the sum over axes, all but one."""
    left = [i for i in range(len(x.shape)) if i not in axes]
    if len(left) > 1:
        return None
    return _sums(target, x, left[0] if left else 0, tuple(x.shape[i] for i in left))
