"""Layer norm and RMS norm: plans for rows (N, C) of one group. Groups of images are NumPy's."""

from __future__ import annotations

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.rows import BLOCK
from ..kernels.standardize import slope, standardized
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain
from ..runtime.parallel import ByImages, Work

WORK = 4  # MACs in whose time a number is read and written


@implements("standardize")
def standardize(
    target: Target, x: Spec, *, groups: int, eps: float, centered: bool
) -> Executable | None:
    """Plan y and rate."""
    if len(x.shape) != 2 or groups != 1:
        return None
    rows, size = x.shape
    function = build(standardized, target, x.dtype.name, eps, centered, size > BLOCK)
    step = size * x.dtype.itemsize

    def begin(x: NDArray) -> tuple[tuple[NDArray, NDArray], Work]:
        source, y = plain(x), memory.empty(x.shape, x.dtype)
        rates = memory.empty((rows, 1), x.dtype)

        def work(first: int, count: int, worker: int) -> None:
            row = address(rates) + first * rates.itemsize
            function(*[address(a) + first * step for a in (source, y)], row, count, size)

        return (y, rates), work

    return ByImages(rows, WORK * x.size, begin)


@implements("standardize_dx")
def standardize_dx(
    target: Target, dy: Spec, y: Spec, rate: Spec, *, groups: int, centered: bool
) -> Executable | None:
    """Plan the gradient of x."""
    if len(y.shape) != 2 or groups != 1 or not dy.dtype == y.dtype == rate.dtype:
        return None
    rows, size = y.shape
    function = build(slope, target, y.dtype.name, centered, size > BLOCK)
    step = size * y.dtype.itemsize

    def begin(dy: NDArray, y: NDArray, rate: NDArray) -> tuple[NDArray, Work]:
        dx, top, value, rates = memory.empty(y.shape, y.dtype), plain(dy), plain(y), plain(rate)

        def work(first: int, count: int, worker: int) -> None:
            row = address(rates) + first * rates.itemsize
            reads = [address(a) + first * step for a in (top, value)]
            function(*reads, row, address(dx) + first * step, count, size)

        return dx, work

    return ByImages(rows, WORK * y.size, begin)
