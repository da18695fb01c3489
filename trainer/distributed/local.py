"""Workers that train alone for some steps and then average what they have learned: local SGD (Stich
2018) and, with momentum of the averages, DiLoCo (Douillard et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd import context
from ...autograd.array import Array, NDArray, array
from ...autograd.functional.create import zeros
from ...autograd.nn.flat import FlatParameters
from ...autograd.ops.elementwise import sub
from ...autograd.ops.reduce import scale
from ...autograd.ops.update import accumulate, sgd, store
from ...autograd.optim import Optimizer
from .clipping import Clip
from .exchange import Reducer, gather_rows
from .reproducible import fold
from .sync import allreduce
from .update import Update

WORKERS, OUTER = "workers", "outer"  # of a state: slots of each worker, and the outer velocity


class Workers(NamedTuple):
    """Which workers are this rank's, the numbers `mine`, out of so many on `all` ranks."""

    mine: range
    all: int


class OuterStep(NamedTuple):
    """The step that follows an average: learning rate and Nesterov momentum."""

    lr: float
    momentum: float


class LocalUpdate(Update):
    """Lets each worker update weights of its own by its own gradients; a rank has one for each of
    its micro-batches, with an optimizer each.

    `synchronise` averages the changes since the last time over all workers, along the fixed tree,
    and takes a step from where they began; all go on from there:

        d = w before - mean of the workers' w
        v = momentum v + d
        w = w before - lr (d + momentum v)

    With lr 1 and momentum 0 that is the mean of the workers' weights. `names` are those of the flat
    parameters; the sums go through `reducer`."""

    def __init__(
        self, optimizers: Sequence[Optimizer], flat: FlatParameters, names: Sequence[str],
        workers: Workers, reducer: Reducer, outer: OuterStep, clip: Clip | None = None,
    ) -> None:  # fmt: skip
        super().__init__(optimizers[0], reducer.comm, clip)
        self.optimizers, self.workers, self.outer = optimizers, workers, outer
        self._flat, self._names, self._reducer = flat, names, reducer
        self._before = self._blank()
        self._velocity = self._blank() if outer.momentum else zeros(dtype=flat.dtype).array
        # A single worker's weights stay where the model has them.
        self._weights = [self._blank() for _ in workers.mine] if len(workers.mine) > 1 else []
        self._worker = 0

    def _blank(self) -> Array:
        return zeros(*self._flat.data.shape, dtype=self._flat.dtype).array

    @property
    def nbytes(self) -> int:
        """Bytes of all slots on this rank: those of its workers, and the outer velocity."""
        groups = [group for optimizer in self.optimizers for group in optimizer.groups]
        inner = sum(slot.spec.nbytes for group in groups for slot in group.slots().values())
        return inner + (self._velocity.spec.nbytes if self.outer.momentum else 0)

    def begin(self) -> None:
        """Let all workers begin with the weights that the model has."""
        with context.using(phase="communicate", scope="weights", tape=None):
            for copy in (self._before, *self._weights):
                store(copy, self._flat.data)

    def use(self, worker: int) -> None:
        """Let the model have the weights of this rank's worker of that number, from 0."""
        self._worker, self.optimizer = worker, self.optimizers[worker]
        if self._weights:
            with context.using(phase="update", scope="workers", tape=None):
                store(self._flat.data, self._weights[worker])

    def step(self) -> None:
        """Update the weights of the worker in use by their gradients, and forget these."""
        super().step()
        if self._weights:
            with context.using(phase="update", scope="workers", tape=None):
                store(self._weights[self._worker], self._flat.data)

    def skip(self) -> None:
        """Count a step of a rank without workers."""
        self.optimizer.steps += 1

    def synchronise(self) -> None:
        """Average the workers' changes, step, and let all go on from there. All ranks must call
        it."""
        flat = self._flat
        with context.using(phase="communicate", scope="weights", tape=None):
            weights = self._weights or [flat.data]
            changes = [sub(self._before, w) for w in weights]
            store(flat.grad, fold(changes, accumulate))
            allreduce(flat.grad, through=self._reducer)
            self._reducer.wait()
            store(flat.grad, scale(flat.grad, factor=1.0 / self.workers.all))
        with context.using(phase="update", scope=OUTER, tape=None):
            lr, momentum = array(self.outer.lr, flat.computed_in), self.outer.momentum
            sgd(
                self._before, flat.grad, self._velocity, zeros(dtype=flat.dtype).array, lr,
                momentum=momentum, nesterov=momentum > 0,
            )  # fmt: skip
            store(flat.data, self._before)
        for p in flat.parameters:
            p.grad = None
        self.begin()

    def state_dict(self) -> dict[str, Any]:
        """Return the state on rank 0, elsewhere only the number of steps: of each slot the mean
        over all workers, with which synchronous training can go on, under "workers" those of each,
        (workers, ..), and under "outer" the outer velocity. All ranks must call it."""
        own = [optimizer.state_dict() for optimizer in self.optimizers]
        state: dict[str, Any] = {"step": self.optimizer.steps}
        gathered = {slot: self._gather([each[slot] for each in own]) for slot in self.slots}
        if self.comm.rank:
            return state
        for slot, values in gathered.items():
            state[slot] = {name: rows.mean(axis=0) for name, rows in values.items()}
        state[WORKERS] = gathered
        velocity = self._velocity.value
        state[OUTER] = self._by_name(velocity) if self.outer.momentum else {}
        return {**state, "missed": own[0]["missed"]} if "missed" in own[0] else state

    def _gather(self, own: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
        """Return a slot of all workers by parameter on rank 0; elsewhere nothing."""
        gathered = {}
        for name in own[0]:
            mine = np.stack([values[name] for values in own])[: len(self.workers.mine)]
            rows = gather_rows(self.comm, mine)
            if rows is not None:
                gathered[name] = rows
        return gathered

    def _by_name(self, whole: NDArray) -> dict[str, NDArray]:
        flat = self._flat
        triples = zip(self._names, flat.offsets, flat.shapes, strict=True)
        return {
            name: whole[start : start + int(np.prod(shape))].reshape(shape).copy()
            for name, start, shape in triples
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; where that is of another number of workers, or of
        a synchronous training, each from the mean. ValueError where it does not fit."""
        for number, optimizer in enumerate(self.optimizers):
            own = dict(state)
            for slot in self.slots:
                rows = state.get(WORKERS, {}).get(slot, {})
                if all(len(values) == self.workers.all for values in rows.values()):
                    part = [*self.workers.mine][number : number + 1]
                    own[slot] = {**state[slot], **{n: v[i] for n, v in rows.items() for i in part}}
            optimizer.load_state_dict(own)
        velocity = state.get(OUTER, {})
        if self.outer.momentum and velocity:
            values = [np.asarray(velocity[name]).reshape(-1) for name in self._names]
            self._velocity.write(np.concatenate(values))
