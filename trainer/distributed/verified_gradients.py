"""The gradients of a step, computed twice on different ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...autograd.nn.flat import FlatParameters
from .buffers import total
from .comm import Comm
from .digests import Digests, digest, digests, gather
from .exchange import Reducer, piece
from .sealed import FlatRegion, SealedState
from .trial import BranchNames, GradientTrial, Tell, settle

Rows: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Branch:
    """What a rank's micro-batches leave, besides gradients in the flat buffer: their figures, and a
    digest of each of their running statistics."""

    rows: Rows
    statistics: Digests


# Computes a branch for the n-th time, from 0.
Compute: TypeAlias = Callable[[int], Branch]


class GradientVerifier:
    """Computes gradients twice. `names` are those of a branch's digests, `parts` is the number of
    micro-batches of all ranks; `state` has the weights, which stay the same meanwhile. The sums are
    sealed in `gradients`."""

    def __init__(
        self, comm: Comm, flat: FlatParameters, names: BranchNames, parts: int, state: SealedState
    ) -> None:
        self.comm, self.flat, self.names, self.state = comm, flat, names, state
        region = FlatRegion(flat.grad, flat.offsets, [f"gradient of {n}" for n in names.parameters])
        self.gradients = SealedState(comm.rank, [region])
        self._reducer = Reducer(comm, parts)
        self._shifted = Reducer(comm, parts, shift=1)
        # MPI alone knows who adds what, unless the order is fixed.
        width = piece(flat.data.spec.size, comm.size)
        self._pieces = [rank * width for rank in range(comm.size if self._reducer.fixed else 0)]

    def run(self, own: Compute, again: Compute, tell: Tell) -> Rows:
        """Leave the gradients summed over the ranks in the flat buffer, and return the sum of the
        figures. `own` and `again` compute the branch of this rank and of the next one. `tell` gets
        a line on each fault that was mended. Raises Corrupted where nothing helps. All ranks must
        call it."""
        results: list[NDArray[Any]] = []

        def attempt(number: int) -> GradientTrial:
            row, results[:] = self._attempt(number, own, again)
            return GradientTrial.of(self.names, self.state.names, gather(self.comm, row, tell))

        trial = settle(attempt, tell)
        sums, figures = results
        self.gradients.keep([sums], trial.sums[self.comm.rank, : len(self.names.parameters)])
        return figures

    def _attempt(
        self, number: int, own: Compute, again: Compute
    ) -> tuple[Digests, list[NDArray[Any]]]:
        """Return this rank's row of a trial, and the sums of gradients and figures."""
        grad = self.flat.grad.value
        branch = own(number)
        mine, facts = grad.copy(), self._digest(branch)
        other = again(number)
        theirs, facts_again = grad.copy(), self._digest(other)
        changed = np.array([self.state.mend()]).view(np.uint64)
        sums, figures = self._sum(self._reducer, mine, branch.rows)
        sums_again, _ = self._sum(self._shifted, theirs, other.rows)
        grad[...] = mine
        row = np.concatenate([facts, facts_again, changed, sums, sums_again])
        return row, [mine, figures]

    def _digest(self, branch: Branch) -> Digests:
        """Return the digests of a branch."""
        gradients = digests(self.flat.grad.value, self.flat.offsets)
        return np.concatenate([gradients, digest(branch.rows), branch.statistics])

    def _sum(self, reducer: Reducer, gradients: NDArray[Any], rows: Rows) -> tuple[Digests, Rows]:
        """Sum over the ranks, and return the digests of the sums, and the sum of the figures."""
        reducer.start(gradients)
        reducer.wait()
        figures = total(rows.copy(), reducer)
        found = digests(gradients, self.flat.offsets), digest(figures)
        return np.concatenate([*found, digests(gradients, self._pieces)]), figures
