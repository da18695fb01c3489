"""How weights are updated once the gradients of a step are there: by every rank all of them, or by
each rank its share (ZeRO stage 1: Rajbhandari et al. 2020).

A share is a piece of each bucket, of which the rank gets the sums alone. For an optimizer that
looks at whole parameters, it is neighbouring parameters, and the sums are those of all ranks."""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...autograd import context
from ...autograd.array import NDArray, Spec
from ...autograd.ledger import Cost
from ...autograd.nn.errors import compare
from ...autograd.nn.flat import FlatSlice
from ...autograd.optim import EMA, Optimizer
from ...autograd.primitive import primitive
from ..cost.cluster.allreduce import ring_volume
from ..errors import UserError
from .clipping import Clip
from .comm import Comm
from .exchange import span
from .sync import GradientSync


class Update:
    """An optimizer that every rank runs on all weights, perhaps after a `clip` of gradients."""

    def __init__(self, optimizer: Optimizer, comm: Comm, clip: Clip | None = None) -> None:
        self.optimizer, self.comm, self.clip = optimizer, comm, clip
        self.optimizers: Sequence[Optimizer] = [optimizer]  # all of this rank

    @property
    def slots(self) -> tuple[str, ...]:
        """What the optimizer keeps for each element."""
        return self.optimizer.slots

    @property
    def rates(self) -> list[float]:
        """The learning rates of the next step, which are the same on every rank."""
        return self.optimizer.rates

    @property
    def nbytes(self) -> int:
        """Bytes of the optimizer's slots on this rank."""
        groups = self.optimizer.groups
        return sum(slot.spec.nbytes for group in groups for slot in group.slots().values())

    def step(self) -> None:
        """Update all weights by their gradients, and forget these."""
        self._step()
        self.optimizer.zero_grad()

    def _step(self) -> None:
        if self.clip:
            self.clip(self.optimizer)
        self.optimizer.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the moving average of the weights within a `with` block, if there is
        one. All ranks must call it."""
        if EMA.slot not in self.slots:
            yield
            return
        with self.optimizer.averaged():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's whole state on rank 0; elsewhere only the number of steps. All
        ranks must call it."""
        return {"step": self.optimizer.steps} if self.comm.rank else self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned. ValueError where it does not fit."""
        self.optimizer.load_state_dict(state)


def _gathering_cost(y: None, x: Spec, *, through: Comm, borders: tuple[int, ...]) -> Cost:
    """Cost of a ring allgather for one rank: p-1 messages, in all (p-1)/p of the array, of pieces
    of any sizes on average (Patarasuk and Yuan 2009)."""
    moved = int(ring_volume(x.nbytes, through.size) / 2)
    return Cost(bytes_read=moved, bytes_written=moved, bytes_sent=moved, messages=through.size - 1)


@primitive(infer=lambda x, *, through, borders: (), cost=_gathering_cost, writes=(0,), alias=0)
def allgather(x: NDArray, *, through: Comm, borders: tuple[int, ...]) -> None:
    """Overwrite each rank's piece of x, which lies between two of the `borders`, with that of the
    rank."""
    through.allgather_pieces(x, borders)


class Shared(NamedTuple):
    """Elements of flat parameters from `start` on, of which each rank updates those between two of
    the `borders`, counted from there."""

    start: int
    borders: tuple[int, ...]

    def of(self, rank: int) -> tuple[int, int]:
        """Return the range of a rank in the flat parameters."""
        return self.start + self.borders[rank], self.start + self.borders[rank + 1]


def shared(sync: GradientSync, ranks: int) -> list[Shared]:
    """Return what ranks share: each bucket, if each rank gets the sum of its piece, else all, cut
    between parameters, about evenly."""
    if sync.reducer.scatters:
        sizes = [(bucket.start, bucket.array.spec.size) for bucket in sync.buckets]
        return [
            Shared(start, (*(span(size, ranks, rank)[0] for rank in range(ranks)), size))
            for start, size in sizes
        ]
    size = sync.flat.data.spec.size
    edges = (*sync.flat.offsets, size)
    middles = [(start + end) / 2 for start, end in pairwise(edges)]
    # A parameter is updated by the rank in whose even share its middle lies.
    firsts = [bisect_left(middles, rank * size / ranks) for rank in range(ranks)]
    return [Shared(0, (*(edges[first] for first in firsts), size))]


def cut(sync: GradientSync, comm: Comm) -> None:
    """Let optimizers update this rank's share."""
    spans = (each.of(comm.rank) for each in shared(sync, comm.size))
    sync.flat.cut(spans, whole=not sync.reducer.scatters)


class ShardedUpdate(Update):
    """An optimizer that on each rank updates its share, and keeps no state for others; each element
    is updated by the same operations as by `Update`. The parameters, with these `names`, were `cut`
    before the optimizer was made.

    UserError for an optimizer that is not elementwise where parameters are cut, or has groups of
    its own."""

    def __init__(
        self, optimizer: Optimizer, sync: GradientSync, comm: Comm, names: Sequence[str],
        clip: Clip | None = None,
    ) -> None:  # fmt: skip
        super().__init__(optimizer, comm, clip)
        self._flat, self._names, self._reducer = sync.flat, names, sync.reducer
        if sync.reducer.scatters and not optimizer.elementwise:
            raise UserError(
                "--shard-optimizer: expected an optimizer that updates each element by itself, got "
                f"{type(optimizer).__name__}; use --no-shard-optimizer"
            )
        self.shared = shared(sync, comm.size)
        if [group.flat for group in optimizer.groups] != [*sync.flat.slices]:
            raise UserError(
                "--shard-optimizer: expected an optimizer over the flat parameters as a whole, got "
                "one with groups of its own; use --no-shard-optimizer"
            )

    def step(self) -> None:
        """Update this rank's weights, and take the others from their ranks."""
        self._step()
        for p in self._flat.parameters:  # also those that lie on other ranks
            p.grad = None
        begun = time.perf_counter()
        self._gather_weights()
        self._reducer.exposed += time.perf_counter() - begun
        self._flat.renew_narrow()

    def _gather_weights(self) -> None:
        with context.using(phase="communicate", scope="weights", tape=None):
            for start, borders in self.shared:
                weights = self._flat.data.view(start, (borders[-1],))
                allgather(weights, through=self.comm, borders=borders)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The same; each rank keeps all weights meanwhile, so that nothing is exchanged at the
        end."""
        if EMA.slot not in self.slots:
            yield
            return
        whole = self._flat.data.value.copy()
        try:
            with self.optimizer.averaged():
                self._gather_weights()
                yield
        finally:
            self._flat.data.write(whole)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state on rank 0, as if that rank had updated all, and only the number of
        steps elsewhere. All ranks must call it."""
        own = self.optimizer.state_dict()
        wholes = {slot: self._gather(slot) for slot in self.slots}
        texts = self.comm.gather_bytes(json.dumps(own.get("missed", {})).encode())
        if not texts:
            return {"step": own["step"]}
        # A parameter that lies on several ranks has missed as many updates on all of them.
        found = {name: count for text in texts for name, count in json.loads(text).items()}
        state = {"step": own["step"], **wholes}
        missed = {name: found[name] for name in self._names if name in found}
        return {**state, "missed": missed} if missed else state

    def _gather(self, slot: str) -> dict[str, NDArray]:
        """Return a slot of all ranks by parameter on rank 0; elsewhere nothing."""
        stored = [group.slots().get(slot) for group in self.optimizer.groups]
        own = b"".join(a.value.tobytes() for a in stored if a is not None)
        rows = [np.frombuffer(x, self._flat.dtype) for x in self.comm.gather_bytes(own)]
        if None in stored or not rows:
            return {}
        whole = np.empty(self._flat.data.shape, self._flat.dtype)
        done = [0] * len(rows)
        for each in self.shared:
            for rank, row in enumerate(rows):
                start, stop = each.of(rank)
                whole[start:stop] = row[done[rank] : done[rank] + stop - start]
                done[rank] += stop - start
        flat = self._flat
        triples = zip(self._names, flat.offsets, flat.shapes, strict=True)
        return {
            name: whole[first : first + int(np.prod(shape))].reshape(shape)
            for name, first, shape in triples
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a run that was sharded over any number of ranks, or not at all.
        ValueError where it does not fit."""
        own = dict(state)
        for slot in self.slots:
            if any(slot in group.slots() for group in self.optimizer.groups):
                own[slot] = self._own(state[slot])
        self.optimizer.load_state_dict(own)

    def _own(self, saved: Mapping[str, Any]) -> dict[str, NDArray]:
        """Return what lies on this rank of a slot's values by parameter."""
        values = {name: np.asarray(value) for name, value in saved.items()}
        shapes = dict(zip(self._names, self._flat.shapes, strict=True))
        found = {name: value.shape for name, value in values.items()}
        compare("optimizer's state", shapes, found, strict=True)
        names = {id(p): name for p, name in zip(self._flat.parameters, self._names, strict=True)}
        return {
            names[id(p)]: values[names[id(p)]]
            .reshape(-1)[inside.start : inside.stop]
            .reshape(shape)
            for part in self._flat.slices
            if isinstance(part, FlatSlice)
            for p, inside, shape in zip(part.parameters, part.inside, part.shapes, strict=True)
        }
