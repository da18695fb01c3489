"""Arrays as flat memory: element by element no axis matters, as long as all arrays lie alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

import numpy as np

from ...array import NDArray, Spec
from ...recent import WAYS, Recent
from .language import Integer, Kernel
from .layout import Moves
from .memory import MALLOC, pool
from .targets import Target

Strides: TypeAlias = tuple[int, ...]
Layout: TypeAlias = tuple[Strides, Strides]
# Gets a place and how many numbers count there; None for a whole vector.
Body: TypeAlias = Callable[[Integer, Integer | None], None]


def sweep(k: Kernel, count: Integer, body: Body, unroll: int = 4) -> None:
    """Write down `body` for all places 0 .. count - 1, `count` > 0, a vector each: whole ones
    `unroll` at a time, then the rest."""
    step = unroll * k.lanes
    whole = k.builder.udiv(k.integer(count), k.integer(step))
    with k.where(k.positive(whole)), k.loop(whole) as i:
        for j in range(unroll):
            body(k.sum((i, step), j * k.lanes), None)
    start = k.times(whole, step)
    rest = k.builder.sub(k.integer(count), start)
    with _some(k, rest), k.loop(k.builder.udiv(k.sum(rest, k.lanes - 1), k.integer(k.lanes))) as i:
        body(k.sum(start, (i, k.lanes)), k.builder.sub(rest, k.times(i, k.lanes)))


def _some(k: Kernel, count: Integer) -> AbstractContextManager[None]:
    return k.where(k.positive(count))


def copied(target: Target, dtype: str) -> Kernel:
    """Return the kernel that copies numbers: from, to, how many."""
    k = Kernel(target, dtype, ("x", "y"), ("count",))
    x, y, count = k.arguments

    def move(place: Integer, some: Integer | None) -> None:
        k.store(k.load(k.at(x, place), some), k.at(y, place), some)

    sweep(k, count, move)
    return k


def increase(target: Target, dtype: str) -> Kernel:
    """Return the kernel of an addition in place: array, what is added, number of elements."""
    k = Kernel(target, dtype, ("x", "g"), ("count",))
    x, g, count = k.arguments

    def body(place: Integer, some: Integer | None) -> None:
        to = k.at(x, place)
        k.store(k.load(to, some) + k.load(k.at(g, place), some), to, some)

    sweep(k, count, body)
    return k


class Layouts:
    """The layouts in which arrays of one shape and type come. A dense one has its numbers side by
    side, in whatever order of axes."""

    def __init__(self, spec: Spec) -> None:
        self.shape, self.dtype = spec
        self.size, self.nbytes = spec.size, spec.nbytes
        self.known: Recent[Strides, Layout | None] = Recent(WAYS)
        self.plain = self._learn(np.empty(self.shape, self.dtype)) or ((), ())

    def of(self, x: NDArray) -> Layout | None:
        """Return how a dense array lies, and the strides of a new one like it; else None. Of axes
        of one element, it does not matter how they lie."""
        strides = x.strides
        try:
            return self.known[strides]
        except KeyError:
            self.known[strides] = lie = self._learn(x)
            return lie

    def _learn(self, x: NDArray) -> Layout | None:
        like = np.empty_like(x).strides
        if any(a != b and n > 1 for a, b, n in zip(x.strides, like, self.shape, strict=True)):
            return None
        return tuple(a if n > 1 else 0 for a, n in zip(like, self.shape, strict=True)), like

    def along(self, axis: int) -> Layout:
        """Return the layout in row-major order but for an axis, which comes last."""
        order = [*(i for i in range(len(self.shape)) if i != axis), axis]
        x = np.empty([self.shape[i] for i in order], self.dtype)
        return self.of(x.transpose(np.argsort(order))) or self.plain

    def new(self, strides: Strides) -> NDArray:
        """Return an array whose numbers are not set."""
        memory = pool.take(self.nbytes) if self.nbytes > MALLOC else None
        return np.ndarray(self.shape, self.dtype, memory, 0, strides)

    def agree(self, *xs: NDArray) -> tuple[tuple[NDArray, ...], Strides]:
        """Return arrays that lie alike, and the strides of a result: as they are if they do, else
        some of them copied. Images come channels-last as soon as one of them does."""
        first = self.of(xs[0])
        if first is not None:
            strides = xs[0].strides
            if all(x.strides == strides or self.of(x) == first for x in xs[1:]):
                return xs, first[1]
        found = [lie for lie in map(self.of, xs) if lie is not None]
        last = [lie for lie in found if self.inner(lie, 1)]
        bare, strides = (last or found or [self.plain])[0]
        return tuple(self._moved(x, bare, strides) for x in xs), strides

    def _moved(self, x: NDArray, bare: Strides, strides: Strides) -> NDArray:
        lie = self.of(x)
        return x if lie is not None and lie[0] == bare else self.moved(x, strides)

    def moved(self, x: NDArray, strides: Strides) -> NDArray:
        """Return a copy that lies in another way."""
        Moves.count += 1
        y = self.new(strides)
        y[...] = x
        return y

    def inner(self, lie: Layout | None, axis: int) -> bool:
        """Tell whether a layout has its numbers along an axis side by side."""
        if lie is None or axis >= len(self.shape):
            return False
        return self.shape[axis] == 1 or lie[0][axis] == self.dtype.itemsize


def overlap(a: int, b: int, nbytes: int) -> bool:
    """Tell whether arrays at two addresses share memory without being the same."""
    return a != b and abs(a - b) < nbytes
