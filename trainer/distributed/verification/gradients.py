"""The gradients of a step, computed twice on different ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ....autograd.nn.flat import FlatParameters
from ..buffers import total
from ..comm import Comm
from ..exchange import Reducer, piece, starts
from .digests import Digests, digest, digests, gather
from .sealed import FlatRegion, SealedState
from .trial import BranchNames, GradientTrial, Tell, settle

Rows: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Branch:
    """What a rank's micro-batches leave, besides gradients in the flat buffer: their figures, and
    digests of what the forward pass has read or left: inputs of layers, running statistics."""

    rows: Rows
    forward: Digests


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
        # Along the tree it is known who adds what. On two ranks MPI's own sums have the same bits.
        self._reducer, self._shifted = Reducer(comm, parts), Reducer(comm, parts, shift=1)
        self._reducer.fixed = self._shifted.fixed = comm.size > 1

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
        mine = grad.copy()
        other = again(number)
        # Digests are those of the numbers that are summed, which have lain in memory until now.
        facts, facts_again = self._digest(mine, branch), self._digest(grad, other)
        changed = np.array([self.state.mend()]).view(np.uint64)
        sums_again, _ = self._sum(self._shifted, grad, other.rows, 1)
        sums, figures = self._sum(self._reducer, mine, branch.rows, 0)
        grad[...] = mine
        row = np.concatenate([facts, facts_again, changed, sums, sums_again])
        return row, [mine, figures]

    def _digest(self, gradients: NDArray[Any], branch: Branch) -> Digests:
        """Return the digests of a branch."""
        found = digests(gradients, self.flat.offsets)
        return np.concatenate([found, digest(branch.rows), branch.forward])

    def _sum(
        self, reducer: Reducer, gradients: NDArray[Any], rows: Rows, turn: int
    ) -> tuple[Digests, Rows]:
        """Overwrite gradients with their sum over the ranks; return the digests of the sums, and
        the sum of the figures. A piece is added up `turn` ranks after the one whose it is: a core
        that always adds wrongly does so with one of two sums only."""
        size = self.comm.size
        shift, shift_figures = (turn * piece(n, size) for n in (gradients.size, rows.shape[1]))
        turned = np.roll(gradients, shift) if shift else gradients
        reducer.start(turned)
        reducer.wait()
        figures = total(np.roll(rows, shift_figures, axis=1), reducer)
        added = [digests(x, starts(x.size, size)) for x in (turned, figures)]
        if shift:
            gradients[...] = np.roll(turned, -shift)
        figures = np.roll(figures, -shift_figures)
        found = digests(gradients, self.flat.offsets), digest(figures)
        return np.concatenate([*found, *added]), figures
