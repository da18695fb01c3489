"""Loops over flat memory, for work that is element by element: no axis matters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder


def parts_of(k: KernelBuilder, count: Integer, size: Integer) -> Integer:
    """Return how many parts of a size there are, the last one perhaps incomplete."""
    size = k.integer(size)
    return k.builder.udiv(k.builder.sub(k.sum(count, size), k.integer(1)), size)


# Gets a place and how many numbers count there; None for a whole vector.
Body: TypeAlias = Callable[[Integer, Integer | None], None]


def sweep(k: KernelBuilder, count: Integer, body: Body, unroll: int = 4) -> None:
    """Write down `body` for all places 0 .. count - 1, `count` > 0, a vector each: whole ones
    `unroll` at a time, then the rest."""
    step = unroll * k.lanes
    whole = k.builder.udiv(k.integer(count), k.integer(step))
    with k.where(k.positive(whole)), k.loop(whole) as i:
        for j in range(unroll):
            body(k.sum((i, step), j * k.lanes), None)
    # The rest in vectors under a mask: no loop over single numbers, no reading beyond the array.
    start = k.times(whole, step)
    rest = k.builder.sub(k.integer(count), start)
    with _some(k, rest), k.loop(k.builder.udiv(k.sum(rest, k.lanes - 1), k.integer(k.lanes))) as i:
        body(k.sum(start, (i, k.lanes)), k.builder.sub(rest, k.times(i, k.lanes)))


def _some(k: KernelBuilder, count: Integer) -> AbstractContextManager[None]:
    return k.where(k.positive(count))


def copied(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel that copies numbers: from, to, how many. The two may be one array."""
    k = KernelBuilder(target, dtype, ("x", "y"), ("count",), aliases=("x", "y"))
    x, y, count = k.arguments

    def move(index: Integer, some: Integer | None) -> None:
        k.store(k.load(k.at(x, index), some), k.at(y, index), some)

    sweep(k, count, move)
    return k


def increase(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of an addition in place: array, what is added, number of elements. The two
    may be one array."""
    k = KernelBuilder(target, dtype, ("x", "g"), ("count",), aliases=("x", "g"))
    x, g, count = k.arguments

    def body(index: Integer, some: Integer | None) -> None:
        to = k.at(x, index)
        k.store(k.load(to, some) + k.load(k.at(g, index), some), to, some)

    sweep(k, count, body)
    return k
