"""What changes arrays in place: the optimizer's step, stored gradients, moving averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import FLOAT32, KERNEL_TYPES, computed_in, is_narrow
from ....recent import WAYS
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.elementwise import converted
from ..kernels.sweep import copied, increase
from ..kernels.update import averaged, descend, turned_copy
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address, layout_stats, overlap, plain

LEAST = 1 << 12  # elements below which NumPy is as fast


def alike(*specs: Spec) -> bool:
    """Tell whether arrays have one shape and type, and enough elements for a kernel."""
    return all(s == specs[0] for s in specs) and specs[0].size >= LEAST


def takes(w: Spec, narrow: Spec) -> bool:
    """Tell whether kernels update such weights, with this narrow copy or without one."""
    if not narrow.shape:
        return w.dtype in KERNEL_TYPES
    return w.dtype == FLOAT32 and w.shape == narrow.shape == (w.size,) and is_narrow(narrow.dtype)


@implements("sgd", narrow=True)
def sgd(
    target: Target, w: Spec, g: Spec, v: Spec, narrow: Spec, lr: Spec, *, momentum: float,
    dampening: float, weight_decay: float, nesterov: bool,
) -> Executable | None:  # fmt: skip
    """Plan a step of stochastic gradient descent."""
    if not alike(w, g, v if momentum else w) or lr.shape != () or not takes(w, narrow):
        return None
    layouts, has_narrow = Layouts(w), narrow.shape != ()
    options = momentum != 0, weight_decay != 0, bool(nesterov), has_narrow
    function = build(descend, target, w.dtype.name, *options)
    settings = np.array([0, momentum, 1 - dampening, weight_decay], computed_in(w.dtype))
    address_of_settings = address(settings)

    def run(w: NDArray, g: NDArray, v: NDArray, narrow: NDArray, lr: NDArray) -> None:
        settings[0] = lr  # which is why it is not native: a recording would keep the rate
        changed = (w, v) if momentum else (w,)

        def go(w: NDArray, *rest: NDArray) -> None:
            update(function, (w, rest[-1], rest[0]), narrow, address_of_settings)

        in_place(layouts, go, changed, (g,))

    return Executable(run)


def update(
    function: Callable[..., None], arrays: Sequence[NDArray], narrow: NDArray, settings: int
) -> None:
    """Run the kernel of an update on arrays, weights first, and on a narrow copy of these unless it
    is 0-d, with the numbers at an address."""
    ends, size = [*map(address, arrays)], arrays[0].size
    if not narrow.shape:
        function(*ends, settings, size)
        return
    copy = plain(narrow)
    function(*ends, address(copy), settings, size)
    if copy is not narrow:
        narrow[...] = copy


@implements("accumulate", narrow=True)
def accumulate(target: Target, slot: Spec, g: Spec) -> Executable | None:
    """Plan slot = slot + g."""
    if not alike(slot, g):
        return None
    layouts = Layouts(slot)
    function = build(increase, target, slot.dtype.name)

    def go(slot: NDArray, g: NDArray) -> None:
        function(address(slot), address(g), layouts.size)

    return Executable(lambda slot, g: in_place(layouts, go, (slot,), (g,)), native=True)


def in_place(
    layouts: Layouts, go: Any, changed: Sequence[NDArray], read: Sequence[NDArray]
) -> None:
    """Run a kernel that changes arrays and reads others. Where they do not lie alike, or a changed
    one overlaps another, it runs on copies, which are copied back."""
    lie, everything = layouts.of(changed[0]), (*changed, *read)
    alike = lie is not None and all(layouts.of(x) == lie for x in everything)
    if alike and not _overlapping(layouts, changed, read):
        go(*everything)
        return
    strides = layouts.plain[1]
    copies = [layouts.moved(x, strides) for x in everything]  # which `layout_stats` counts
    go(*copies)
    for x, copy in zip(changed, copies, strict=False):
        x[...] = copy


def _overlapping(layouts: Layouts, changed: Sequence[NDArray], read: Sequence[NDArray]) -> bool:
    addresses = [address(x) for x in (*changed, *read)]
    return any(
        overlap(addresses[i], other, layouts.nbytes)
        for i in range(len(changed))
        for other in addresses[i + 1 :]
    )


@implements("average", narrow=True)
def average(target: Target, slot: Spec, x: Spec, rate: Spec) -> Executable | None:
    """Plan slot = slot + rate (x - slot)."""
    if not alike(slot, x) or rate.shape != ():
        return None
    layouts = Layouts(slot)
    function = build(averaged, target, slot.dtype.name)

    def run(slot: NDArray, x: NDArray, rate: NDArray) -> None:
        # Not native: a recording would keep the rate.
        factors = np.array([float(rate), 1], computed_in(slot.dtype))
        where = address(factors)

        def go(slot: NDArray, x: NDArray) -> None:
            other = where + factors.itemsize
            function(address(slot), address(x), where, other, layouts.size)

        in_place(layouts, go, (slot,), (x,))

    return Executable(run)


@implements("store", narrow=True)
def store(target: Target, slot: Spec, g: Spec) -> Executable | None:
    """Plan slot = g: where g's first axis is the last one in memory, as in the gradients of matrix
    products and filters, squares are turned round."""
    if is_narrow(slot.dtype) and slot == Spec(g.shape, slot.dtype) and g.dtype == FLOAT32:
        return _rounded(target, slot, g)
    if slot != g:
        return None
    copy, layouts = build(copied, target, slot.dtype.name), Layouts(slot)
    function = build(turned_copy, target, slot.dtype.name)
    rows, columns = (slot.shape or (1,))[0], slot.size // (slot.shape or (1,))[0]
    known: dict[tuple[int, ...], NDArray | None] = {}
    offsets = partial(_offsets, slot.shape, slot.dtype.itemsize)

    def run(slot: NDArray, g: NDArray) -> None:
        lie = layouts.of(slot)
        if lie is not None and layouts.of(g) == lie and not _overlapping(layouts, [slot], [g]):
            copy(address(g), address(slot), layouts.size)
            return
        if g.strides not in known and len(known) < WAYS:  # none is forgotten: recordings use them
            known[g.strides] = offsets(g.strides)
        table = known.get(g.strides)
        if table is None or not slot.flags.c_contiguous or np.may_share_memory(slot, g):
            layout_stats.fallbacks += 1
            slot[...] = g
        else:
            function(address(g), address(table), address(slot), rows, columns)

    return Executable(run, native=True)


def _rounded(target: Target, slot: Spec, g: Spec) -> Executable:
    """Plan a slot of a narrow type = g."""
    function, layouts = build(converted, target, (g.dtype.name, slot.dtype.name)), Layouts(g)

    def run(slot: NDArray, g: NDArray) -> None:
        if slot.flags.c_contiguous and g.flags.c_contiguous:
            function(address(g), address(slot), layouts.size)
        else:
            layout_stats.fallbacks += 1
            slot[...] = g

    return Executable(run, native=True)


@implements("running_average")
def running_average(
    target: Target, mean: Spec, var: Spec, new_mean: Spec, new_var: Spec, rate: Spec, *,
    unbiased: float,
) -> Executable | None:  # fmt: skip
    """Plan moving averages of means and variances."""
    each = (mean, var, new_mean, new_var)
    if any(s != mean for s in each) or rate != Spec((), mean.dtype):
        return None
    function = build(averaged, target, mean.dtype.name)
    factors = np.array([1, unbiased], mean.dtype)
    size, one, other = mean.size, address(factors), address(factors) + mean.dtype.itemsize

    def run(mean: NDArray, var: NDArray, *new: NDArray) -> None:
        new_mean, new_var, rate = map(plain, new)
        for old, value, factor in ((mean, new_mean, one), (var, new_var, other)):
            moved = plain(old)
            function(address(moved), address(value), address(rate), factor, size)
            if moved is not old:
                old[...] = moved

    return Executable(run, native=True, keeps=factors)


def _offsets(shape: tuple[int, ...], size: int, strides: tuple[int, ...]) -> NDArray | None:
    """Return where each column begins, in elements, of an array whose first axis is the last one in
    memory; None for others."""
    if strides[0] != size or any(s % size for s in strides):
        return None
    steps = [np.arange(n) * (s // size) for n, s in zip(shape[1:], strides[1:], strict=True)]
    offsets = np.zeros((), np.int64)
    for step in steps:
        offsets = offsets[..., None] + step
    return np.ascontiguousarray(offsets.reshape(-1), np.int64)
