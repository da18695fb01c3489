"""Peak memory of results.

It follows from the calls alone, so it is the same on any backend, meta included, and whether calls
are deferred, fused or replayed."""

from __future__ import annotations

import weakref
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .. import context
from .observer import Dispatched, PassiveObserver

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..storage import Storage
    from ..tensor import Tensor

Names: TypeAlias = tuple[str, str, str, str]  # scope, phase, primitive, backend


class TrackedResult(NamedTuple):
    """Memory that a call allocated: `number` counts them."""

    storage: weakref.ref[Storage]
    number: int


class Lifetimes:
    """Follows each result from the call that computes it to the last one that reads it or a view of
    it.

    Arrays from elsewhere (weights, gradients in a flat buffer, images) do not count."""

    def __init__(self) -> None:
        self.calls: list[Names] = []
        self._known: dict[int, TrackedResult] = {}
        self._sizes: list[int] = []
        self._born: list[int] = []
        self._last: list[int] = []

    def add(self, call: Dispatched) -> None:
        """Add a call."""
        now = len(self.calls)
        self.calls.append(call.key[:4])
        for a in call.args:
            storage = a.storage
            known = self._known.get(id(storage))
            if known is not None and known.storage() is storage:
                self._last[known.number] = now
        for a in call.results:
            # A view takes no memory; reading it extends the life of its owner, see above.
            if a.base is None:
                self._known[id(a.storage)] = TrackedResult(weakref.ref(a.storage), len(self._sizes))
                self._sizes.append(a.spec.nbytes)
                self._born.append(now)
                self._last.append(now)

    def alive(self) -> list[int]:
        """Return for each call the bytes that are alive while it runs, its own results included."""
        change = [0] * (len(self.calls) + 1)
        for size, born, last in zip(self._sizes, self._born, self._last, strict=True):
            change[born] += size
            # Differences at births and deaths, accumulated: one pass over results instead of one
            # for each call.
            change[last + 1] -= size
        return [*accumulate(change[:-1])]

    def peaks(self) -> tuple[tuple[Names, int], ...]:
        """Return the most bytes that are alive while calls of one key run, as a ledger files
        them."""
        peaks: dict[Names, int] = {}
        for names, size in zip(self.calls, self.alive(), strict=True):
            if size > peaks.get(names, 0):
                peaks[names] = size
        return tuple(peaks.items())


class PeakMemory(PassiveObserver):
    """Measures the peak memory of a function's results; the function runs as it would without."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.lifetimes = Lifetimes()

    def add(self, call: Dispatched) -> None:
        """Observe a call."""
        self.lifetimes.add(call)

    def announce(self, leaf: Tensor) -> None:
        """Call the hooks unobserved: their calls are no part of the function."""
        with context.using(observer=None):
            super().announce(leaf)
