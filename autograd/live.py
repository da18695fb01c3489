"""How many bytes of results are alive at once: told by calls alone, so it is the same for numbers
and for shapes, and whether calls wait, are joined or are repeated."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from . import context
from .watch import Dispatched, Observer

if TYPE_CHECKING:
    from .array import Array
    from .ledger import Ledger
    from .tensor import Tensor

Names: TypeAlias = tuple[str, str, str, str]  # scope, phase, primitive, backend


class Result(NamedTuple):
    """Memory that a call made: `place` is its number among all."""

    owner: weakref.ref[Array]
    place: int


class Lifetimes:
    """Follows results from the call that makes them to the last one that reads them, or a view of
    them. What comes from elsewhere, weights, gradients in a flat buffer or images, has no part in
    it."""

    def __init__(self) -> None:
        self.calls: list[Names] = []
        self._known: dict[int, Result] = {}
        self._sizes: list[int] = []
        self._born: list[int] = []
        self._last: list[int] = []

    def add(self, call: Dispatched) -> None:
        """Take down a call."""
        now = len(self.calls)
        self.calls.append(call.key[:4])
        for a in call.args:
            root = a.root
            known = self._known.get(id(root))
            if known is not None and known.owner() is root:
                self._last[known.place] = now
        for a in call.made:
            if a.base is None:
                self._known[id(a)] = Result(weakref.ref(a), len(self._sizes))
                self._sizes.append(a.spec.nbytes)
                self._born.append(now)
                self._last.append(now)

    def alive(self) -> list[int]:
        """Return for each call the bytes that are alive while it runs, its own results included."""
        change = [0] * (len(self.calls) + 1)
        for size, born, last in zip(self._sizes, self._born, self._last, strict=True):
            change[born] += size
            change[last + 1] -= size
        found, total = [], 0
        for more in change[:-1]:
            total += more
            found.append(total)
        return found

    def peaks(self) -> tuple[tuple[Names, int], ...]:
        """Return the most bytes that are alive while calls of one kind run, as a ledger files
        them."""
        found: dict[Names, int] = {}
        for names, size in zip(self.calls, self.alive(), strict=True):
            if size > found.get(names, 0):
                found[names] = size
        return tuple(found.items())


class PeakMemory(Observer):
    """Looks on while a function runs, which notices nothing of it."""

    training = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__((), ledger)
        self.lifetimes = Lifetimes()

    def add(self, call: Dispatched) -> None:
        """Take down a call."""
        self.lifetimes.add(call)

    def refuse(self, what: str) -> None:
        """Nothing is repeated here."""

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a gradient, whose calls are no part of the function."""
        with context.using(observer=None):
            leaf.announce()
