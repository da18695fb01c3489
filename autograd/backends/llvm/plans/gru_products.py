"""Gated recurrent units of bfloat16 whose steps tiles do not take: plans that leave the products of
all steps to tiles, of inputs and in the gradients of weights, and the steps to float32."""

from __future__ import annotations

from collections.abc import Callable

from ....array import NDArray, Spec
from ....dtypes import computed_in
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.sweep import copied
from ..registry import find, find_tiled
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain
from .recurrent import gru_steps
from .widened import around


def projected(
    target: Target, specs: tuple[Spec, ...], backwards: bool, all_steps: bool
) -> Executable | None:
    """Plan the forward pass: inputs times their weights by tiles, then the steps in float32; None
    where tiles do not pay."""
    x, w_ih, b_ih, *others = specs
    projection = find_tiled(target, "linear", (x, w_ih, b_ih), {})
    if projection is None:
        return None
    gates, h = Spec((*x.shape[:2], w_ih.shape[0]), x.dtype), others[0]
    results = [Spec((x.shape[0], *h.shape), x.dtype), Spec(h.shape, x.dtype)]
    results += [Spec((*x.shape[:2], 4 * h.shape[1]), x.dtype)] * all_steps
    wide = gates._replace(dtype=computed_in(x.dtype))
    inner = gru_steps(target, wide, backwards, all_steps)
    steps = around(target, inner, (gates, *others), results)

    def run(x: NDArray, w_ih: NDArray, b_ih: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        found: tuple[NDArray, ...] = steps.run(projection.run(x, w_ih, b_ih), *xs)
        return found

    return Executable(run, keeps=(projection, steps))


def gradients(
    target: Target, dgates: Spec, x: Spec, hs: Spec, backwards: bool
) -> Executable | None:
    """Plan the gradients of weights and biases: two products over the rows of all steps; None where
    tiles do not pay."""
    of_inputs, of_states = (_sums(target, dgates, read) for read in (x, hs))
    if of_inputs is None or of_states is None:
        return None
    copy = build(copied, target, hs.dtype.name)
    first, rest = (-1, slice(None, -1)) if backwards else (0, slice(1, None))
    later = slice(1, None) if backwards else slice(None, -1)

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        dgates, dstates, x, states, h = map(plain, xs)
        old = memory.empty(*hs)
        for source, to in ((h, old[first]), (states[later], old[rest])):
            copy(address(source), address(to), to.size)
        return *of_inputs(dgates, x), *of_states(dstates, old)

    return Executable(run, native=True)


def _sums(
    target: Target, dgates: Spec, read: Spec
) -> Callable[[NDArray, NDArray], tuple[NDArray, NDArray]] | None:
    """Plan the sums of dgates^T times what is read, and of dgates."""
    rows, wide, width = dgates.shape[0] * dgates.shape[1], dgates.shape[2], read.shape[2]
    pair = Spec((wide, rows), dgates.dtype), Spec((rows, width), read.dtype)
    product = find_tiled(target, "matmul", pair, {"wide": True})
    total = find(target, "sum", (dgates,), {"axes": (0, 1), "wide": True})
    if product is None or total is None:
        return None
    return lambda y, x: (
        product.run(y.reshape(rows, wide).T, x.reshape(rows, width)), total.run(y)
    )  # fmt: skip
