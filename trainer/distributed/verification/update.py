"""The update of a step, done twice on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....autograd.nn.flat import FlatParameters
from ..comm import Comm
from ..update import ShardedUpdate, Update
from .digests import Digests, digests, gather
from .sealed import SealedState
from .trial import Tell, UpdateTrial, changes, settle


class UpdateVerifier:
    """Updates weights twice. `gradients` and `state`, of weights first and the optimizer's slots,
    are sealed."""

    def __init__(
        self, comm: Comm, flat: FlatParameters, update: Update, gradients: SealedState,
        state: SealedState,
    ) -> None:  # fmt: skip
        self.comm, self.flat, self.update = comm, flat, update
        self.gradients, self.state = gradients, state

    def run(self, tell: Tell) -> None:
        """Do the update and seal the state. `tell` gets a line on each fault that was mended.
        Raises Corrupted where nothing helps. All ranks must call it."""
        rewind, results = self._rewinder(), self.state.copies

        def update() -> Digests:
            changed = np.array([self.gradients.mend(), self.state.mend()])
            self.update.step()
            return changed.view(np.uint64)

        def attempt(number: int) -> UpdateTrial:
            nonlocal results
            if number:
                rewind()
            changed = update()
            # Of a copy, which becomes the sealed one: what changes from here on is seen later.
            results = self.state.copy()
            once = again = self._digests(results)
            rewind()
            changed_again = update()
            if not self.state.holds(results):
                again = self._digests(self.state.copy())
            row = np.concatenate([changed, once, changed_again, again])
            halves = np.split(gather(self.comm, row, tell), 2, axis=1)
            for half in halves:
                self._tell_changes(half[:, :2].view(np.int64), tell)
            return UpdateTrial(self.state.names, halves[0][:, 2:], halves[1][:, 2:], self._shared)

        trial = settle(attempt, tell)
        self.state.keep(results, trial.again[self.comm.rank, : len(self.state.names)])
        self.gradients.drop()

    def _digests(self, state: list[NDArray[Any]]) -> Digests:
        """Return the digests of a state, and of the weights that each rank updates, if it updates a
        share."""
        found = self.state.digests(state)
        if not isinstance(self.update, ShardedUpdate):
            return found
        shares = np.zeros(self.comm.size, np.uint64)
        for start, borders in self.update.shared:
            shares += digests(state[0][start : start + borders[-1]], borders[:-1])
        return np.concatenate([found, shares])

    @property
    def _shared(self) -> int:
        """How many of the state's pieces all ranks hold alike."""
        sharded = isinstance(self.update, ShardedUpdate)
        return len(self.flat.parameters) if sharded else len(self.state.names)

    def _tell_changes(self, changed: NDArray[np.int64], tell: Tell) -> None:
        for sealed, column in zip((self.gradients, self.state), changed.T, strict=True):
            for line in changes(column, sealed.names):
                tell(line)

    def _rewinder(self) -> Callable[[], None]:
        """Return what undoes an update that comes after this call."""
        optimizer, parameters = self.update.optimizer, self.flat.parameters
        steps, gradients = optimizer.steps, [p.grad for p in parameters]
        counts = [[*group.counts] for group in optimizer.groups]

        def rewind() -> None:
            self.state.restore()
            if self.update.clip:  # which changes them
                self.gradients.restore()
            optimizer.steps = steps
            for group, before in zip(optimizer.groups, counts, strict=True):
                group.counts = [*before]
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient

        return rewind
