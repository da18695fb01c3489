"""What drives the exchange of gradients during the backward pass, found by trial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .comm import Comm
from .exchange import OVERLAPS, Reducer

WARMING = 5  # steps that are not counted: kernels are compiled, steps recorded
TRIALS = 7  # steps with each way
WHOLE = OVERLAPS[0]  # the way that hides nothing
LONGEST = WARMING + TRIALS * len(OVERLAPS)  # steps until a way is chosen


class ExchangeTimes(NamedTuple):
    """Seconds of the exchange of gradients: those that ranks spent on it or waited for it, and
    those that went on behind their computation."""

    exposed: float = 0.0
    hidden: float = 0.0


def ways_to_drive(wanted: str, comm: Comm) -> tuple[str, ...]:
    """Return those of `OVERLAPS` to choose from: the wanted one, or with "auto" all that can be.
    UserError for a thread where MPI may not be called by two."""
    if comm.size == 1:
        return (WHOLE,)
    if wanted == "auto":
        return tuple(name for name in OVERLAPS if name != "thread" or comm.concurrent)
    if wanted == "thread" and not comm.concurrent:
        raise UserError("--overlap: expected none or poll with an MPI without threads, got thread")
    return (wanted,)


class OverlapChoice:
    """Finds which of some `ways` to drive the exchange makes steps fastest, by trying each on the
    real ones: `step` is called after each step, by all ranks alike, which then agree on the slowest
    rank's times.

    `WHOLE` is tried in any case: it exposes the whole exchange, which tells how much of it another
    way hides."""

    def __init__(self, reducer: Reducer, ways: Sequence[str] = OVERLAPS) -> None:
        self._reducer, self._ways = reducer, ways
        trials = [*dict.fromkeys((WHOLE, *ways))]
        self._turns = iter([*[WHOLE] * WARMING, *trials * TRIALS])
        self._counted = -WARMING
        self._seconds: dict[str, list[float]] = {name: [] for name in trials}
        self._exposed: dict[str, list[float]] = {name: [] for name in trials}
        self._since = (time.perf_counter(), reducer.exposed)
        self._taken = reducer.exposed
        self._overlapped = (0, 0.0)  # steps since the last `take`, and what they exposed
        self.ended = False
        reducer.overlap = next(self._turns)

    def begin(self) -> None:
        """Begin a step: what has come before, such as a checkpoint, does not count."""
        self._since = time.perf_counter(), self._reducer.exposed

    def step(self) -> None:
        """Count a step, from `begin` on; after the last trial, choose."""
        now, exposed = time.perf_counter(), self._reducer.exposed
        seconds, waited = now - self._since[0], exposed - self._since[1]
        self._since = now, exposed
        if not self.ended:
            self._try(seconds, waited)
        elif self._reducer.overlap != WHOLE:
            steps, so_far = self._overlapped
            self._overlapped = steps + 1, so_far + waited

    def _try(self, seconds: float, waited: float) -> None:
        if self._counted >= 0:
            self._seconds[self._reducer.overlap].append(seconds)
            self._exposed[self._reducer.overlap].append(waited)
        self._counted += 1
        following = next(self._turns, None)
        self.ended = following is None
        self._reducer.overlap = following or self._fastest()

    def _fastest(self) -> str:
        times = np.array([np.median(self._seconds[name]) for name in self._ways])
        self._reducer.comm.allreduce(times, "max")
        return self._ways[int(times.argmin())]

    def take(self) -> ExchangeTimes:
        """Return the times since the last call, as means over the ranks; all must call it."""
        times = np.array(self.share())
        self._reducer.comm.allreduce(times)
        return ExchangeTimes(*times.tolist())

    def share(self) -> ExchangeTimes:
        """Return this rank's share of the times since the last call: summed over the ranks they are
        means. Nothing counts as hidden before the choice is made."""
        size = self._reducer.comm.size
        exposed = self._reducer.exposed - self._taken
        steps, waited = self._overlapped
        whole = float(np.median(self._exposed[WHOLE])) if self.ended else 0.0
        self._taken, self._overlapped = self._reducer.exposed, (0, 0.0)
        if size == 1:  # microseconds in which nothing was exchanged
            return ExchangeTimes()
        return ExchangeTimes(exposed / size, max(steps * whole - waited, 0.0) / size)
