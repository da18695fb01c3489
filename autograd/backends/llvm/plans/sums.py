"""Sums over all axes but one, or over all of them: plans."""

from __future__ import annotations

from math import inf, prod

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import computed_in, is_narrow
from ....summation import exact_grids, largest_square, sum_over
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.elementwise import converted
from ..kernels.sums import column_sums, grid_sums
from ..kernels.sweep import copied, increase
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address, layout_stats, plain
from ..runtime.memory import empty
from ..runtime.parallel import Scratch
from .elementwise import LEAST, axis_left, repeats

BLOCK = 1 << 14  # numbers that are summed at a time: they fit in the second-level cache
WIDEST = 8  # bytes of a float64, in which sums of blocks are added up


def _sums(target: Target, x: Spec, axis: int, shape: tuple[int, ...]) -> Executable | None:
    """Plan sums over all axes but one, or over all, into `shape`, in the type in which they are
    formed; None for few numbers."""
    columns = prod(shape)
    if x.size < LEAST or columns == x.size:
        return None
    layouts = Layouts(x)
    others = tuple(i for i in range(len(x.shape)) if i != axis or columns == 1)
    times = repeats(columns, target.lanes(x.dtype))
    function = build(column_sums, target, x.dtype.name, target.registers // 4)
    parts, period = Scratch(times * columns, "float64"), times * columns
    block = max(16, min(64, BLOCK // period))
    add = build(increase, target, "float64")
    dtype = computed_in(x.dtype)
    if dtype.itemsize < WIDEST:
        copy = build(converted, target, ("float64", dtype.name))
    else:
        copy = build(copied, target, "float64")

    def run(x: NDArray) -> NDArray:
        lie = layouts.of(x)
        if lie is None or (columns > 1 and not layouts.inner(lie, axis)):
            layout_stats.fallbacks += 1
            return sum_over(x.astype(dtype, copy=False), others).reshape(shape)
        to = parts.address(0)
        function(address(x), to, layouts.size, period, block)
        for row in range(1, times):
            add(to, to + row * columns * WIDEST, columns)
        y = empty(shape, dtype)
        copy(to, address(y), columns)
        return y

    return Executable(run, native=True)


@implements("sum_to")
def sum_to(target: Target, x: Spec, *, shape: tuple[int, ...]) -> Executable | None:
    """Plan the sum over the axes along which `shape` would be broadcast to x, all but one."""
    axis = axis_left(x.shape, shape)
    return None if axis is None else _sums(target, x, axis, shape)


@implements("sum", narrow=True)
def sum(target: Target, x: Spec, *, axes: tuple[int, ...], wide: bool = False) -> Executable | None:
    """Plan the sum over axes, all but one."""
    left = [i for i in range(len(x.shape)) if i not in axes]
    if len(left) > 1 or (is_narrow(x.dtype) and not wide):
        return None
    return _sums(target, x, left[0] if left else 0, tuple(x.shape[i] for i in left))


@implements("square_sums")
def square_sums(target: Target, x: Spec, largest: Spec, *, count: int) -> Executable | None:
    """Plan exact sums of squares, which have the same bits in any order."""
    if x.size < LEAST:
        return None
    layouts, function = Layouts(x), build(grid_sums, target, x.dtype.name)

    def run(x: NDArray, largest: NDArray) -> NDArray:
        most = largest_square(float(largest))
        if not 0 < most < inf:
            return np.array([most, 0.0])
        x = x if layouts.of(x) else plain(x)
        grids, sums = np.array(exact_grids(most, count)), np.empty((2, target.lanes(x.dtype)))
        function(address(x), address(grids), address(sums), layouts.size)
        return np.asarray(sums.sum(1))

    return Executable(run)  # not native: a recording would keep the grids
