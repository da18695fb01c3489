"""The clocks of ranks on different hosts, corrected to that of rank 0 (Cristian 1989)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm

ROUNDS = 12  # of which the one with the shortest round trip counts


class Sync(NamedTuple):
    """At `at` seconds of this rank's clock, rank 0's was `offset` seconds ahead, give or take
    `error`, half the round trip."""

    at: float
    offset: float
    error: float


def synchronise(comm: Comm) -> Sync:
    """Compare this rank's clock with that of rank 0. All ranks must call it."""
    stamp, answer = np.zeros(1), np.zeros(1)
    if comm.rank == 0:
        for other in range(1, comm.size):
            for _ in range(ROUNDS):
                comm.sendrecv(stamp, answer, other)  # returns once the other has asked
                stamp[0] = time.monotonic()
                comm.sendrecv(stamp, answer, other)
        return Sync(time.monotonic(), 0.0, 0.0)
    trips = []
    for _ in range(ROUNDS):
        asked = time.monotonic()
        comm.sendrecv(stamp, answer, 0)
        comm.sendrecv(stamp, answer, 0)
        answered = time.monotonic()
        middle = (asked + answered) / 2
        trips.append(Sync(middle, float(answer[0]) - middle, (answered - asked) / 2))
    return min(trips, key=lambda trip: trip.error)


def corrected(moment: float, syncs: Sequence[Sync]) -> float:
    """Return a moment of a rank's clock in rank 0's: by the line through the first and the last
    comparison, since clocks drift."""
    first, last = syncs[0], syncs[-1]
    if last.at <= first.at:
        return moment + first.offset
    drift = (last.offset - first.offset) / (last.at - first.at)
    return moment + first.offset + drift * (moment - first.at)
