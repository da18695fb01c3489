"""The update of a step, done twice on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd.nn.flat import FlatParameters
from .comm import Comm
from .digests import Digests, digests, gather
from .exchange import starts
from .sealed import SealedState
from .trial import Tell, UpdateTrial, changes, settle
from .update import ShardedUpdate, Update


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
        rewind, results = self._rewinder(), [self.state.copies]

        def update() -> Digests:
            changed = np.array([self.gradients.mend(), self.state.mend()])
            self.update.step()
            # Of a copy, which becomes the sealed one: what changes from here on is seen later.
            results[0] = self.state.copy()
            found = self.state.digests(results[0]), self._shares(results[0][0])
            return np.concatenate([changed.view(np.uint64), *found])

        def attempt(number: int) -> UpdateTrial:
            if number:
                rewind()
            first = update()
            rewind()
            rows = gather(self.comm, np.stack([first, update()]).reshape(-1), tell)
            halves = np.split(rows, 2, axis=1)
            for half in halves:
                self._tell_changes(half[:, :2].view(np.int64), tell)
            once, again = (half[:, 2:] for half in halves)
            return UpdateTrial(self.state.names, once, again, self._shared)

        trial = settle(attempt, tell)
        self.state.keep(results[0], trial.again[self.comm.rank, : len(self.state.names)])
        self.gradients.drop()

    @property
    def _shared(self) -> int:
        """How many of the state's pieces all ranks hold alike."""
        sharded = isinstance(self.update, ShardedUpdate)
        return len(self.flat.parameters) if sharded else len(self.state.names)

    def _shares(self, weights: NDArray[Any]) -> Digests:
        """Return a digest of the weights that each rank updates, if it updates a share."""
        if not isinstance(self.update, ShardedUpdate):
            return np.zeros(0, np.uint64)
        sums = np.zeros(self.comm.size, np.uint64)
        for bucket in self.update.buckets:
            count = bucket.array.spec.size
            part = weights[bucket.start : bucket.start + count]
            sums += digests(part, starts(count, self.comm.size))
        return sums

    def _tell_changes(self, changed: NDArray[np.int64], tell: Tell) -> None:
        for sealed, column in zip((self.gradients, self.state), changed.T, strict=True):
            for line in changes(column, sealed.names):
                tell(line)

    def _rewinder(self) -> Callable[[], None]:
        """Return what undoes an update that comes after this call."""
        optimizer, parameters = self.update.optimizer, self.flat.parameters
        steps, gradients = optimizer.steps, [p.grad for p in parameters]
        updated = [[*group.updated] for group in optimizer.groups]

        def rewind() -> None:
            self.state.restore()
            optimizer.steps = steps
            for group, flags in zip(optimizer.groups, updated, strict=True):
                group.updated = [*flags]
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient

        return rewind
