"""Silent corruption: a processor, a memory or a network that gives a wrong number without an error.

Since the bits of a step depend on nothing but its inputs, a step that is done twice must give the
same bits, and a difference is a fault of hardware. In a verified step each rank computes the share
of its neighbour too, and the sums over the ranks are formed from both (`gradients`); the
update is done twice as well (`update`). What differs tells which rank and which parameter
are at fault (`trial`); the work is then done again. What a rank holds between two steps is kept
twice (`sealed`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....autograd.nn.flat import FlatParameters
from ...errors import UserError
from ..comm import Comm
from .digests import digests, gather


class Corrupted(UserError):
    """Ranks hold, or compute, different numbers."""

    status = 5


class DesyncGuard:
    """Compares weights, step and rates of all ranks, by parameter. `names` are those of the flat
    buffer's parameters."""

    def __init__(self, comm: Comm, flat: FlatParameters, names: Sequence[str]) -> None:
        self.comm, self.flat, self.names = comm, flat, names

    def check(self, step: int, rates: Sequence[float]) -> None:
        """Raise Corrupted on all ranks, which must call it alike, unless they hold the same."""
        facts = np.array([step, *rates], np.float64).view(np.uint64)
        own = np.concatenate([facts, digests(self.flat.data.value, self.flat.offsets)])
        every = gather(self.comm, own, lambda line: None)
        differing = np.flatnonzero((every != every[0]).any(axis=0))
        if not len(differing):
            return
        names = ["the number of the step", *["the learning rate"] * len(rates), *self.names]
        column = every[:, differing[0]]
        values, counts = np.unique(column, return_counts=True)
        others = np.flatnonzero(column != values[counts.argmax()])
        who = f"rank {others[0]} differs from the others"
        if counts.max() * 2 <= len(column):
            who = f"rank 0 and rank {np.flatnonzero(column != column[0])[0]} differ"
        raise Corrupted(
            f"{who} in {names[differing[0]]} after step {step}; "
            "go on from a checkpoint before it with --resume"
        )
