"""Steps that are done twice, and ranks that are compared: what `--verify-every` and
`--compare-every` ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from ...autograd.nn.norm import BatchNorm
from ...datasets import Batch
from ...datasets.source import Ids
from ..config import TrainConfig
from ..distributed.comm import Comm
from ..distributed.sync import GradientSync
from ..distributed.verification.corruption import Corrupted, DesyncGuard
from ..distributed.verification.digests import Digests, gather
from ..distributed.verification.gradients import Branch, GradientVerifier, Rows
from ..distributed.verification.sealed import FlatRegion, JoinedRegion, Region, SealedState
from ..distributed.verification.statistics import Guest, Statistics
from ..distributed.verification.trial import BranchNames, changes
from ..distributed.verification.update import UpdateVerifier
from ..errors import warn
from ..setup import Parts
from .layer_inputs import LayerInputs
from .state import State

# Runs forward and backward on a batch's micro-batches, each after a call with its number; returns
# their figures, and digests of what the layers have read.
RunBranch: TypeAlias = Callable[[Batch, GradientSync, Callable[[int], None]], tuple[Rows, Digests]]


class Verification:
    """Verifies the steps of a training, and compares its ranks, as often as the options say."""

    def __init__(self, config: TrainConfig, comm: Comm, parts: Parts, state: State) -> None:
        self.config, self.comm, self.parts, self.state = config, comm, parts, state
        self._guard = DesyncGuard(comm, parts.flat, parts.names)
        # What lies in memory between two steps: weights and optimizer, running statistics.
        self._weights = SealedState(comm.rank, _regions(parts))
        self._statistics = Statistics(parts.buffers)
        self._running = SealedState(comm.rank, [self._statistics])
        self._after = self._statistics.read()  # the step
        self._after_digests = self._running.digests([self._after])
        self.inputs = LayerInputs(_untold(parts))
        statistics = [f"statistics of {name}" for name in parts.buffers.names]
        columns = BranchNames(parts.names, statistics + self.inputs.names)
        count = parts.data.train.sampler.parts
        self._gradients = GradientVerifier(comm, parts.flat, columns, count, self._weights)
        sums = self._gradients.gradients
        self._update = UpdateVerifier(comm, parts.flat, parts.update, sums, self._weights)
        self._loader = parts.data.train.of_rank((comm.rank + 1) % comm.size)
        self._order: tuple[int, Ids] | None = None  # an epoch, and its samples
        mine = len(self._loader.sampler.mine)
        self._sync = GradientSync(parts.flat, parts.reducer, parts=mine, hooked=False)

    def due(self) -> bool:
        """Tell whether the step that comes is verified."""
        every = self.config.verify_every
        return every > 0 and (self.state.step + 1) % every == 0

    def compare(self, before: int) -> None:
        """Compare the ranks where that has become due since the step `before`, and seal what a
        verified step begins with. Raises Corrupted where ranks differ."""
        every, rates = self.config.compare_every, self.parts.update.rates
        if self.comm.size > 1 and every and self.state.step // every > before // every:
            self._guard.check(self.state.step, rates)
        if self.due():
            self._seal()
        elif self._weights.is_sealed:
            self._weights.drop()
            self._running.drop()

    def _seal(self) -> None:
        """Seal what a verified step begins with, unless the step before has."""
        if self._weights.is_sealed:
            return
        # After steps that were not verified, ranks may differ. This cannot be undone.
        self._guard.check(self.state.step, self.parts.update.rates)
        self._weights.seal()
        self._running.seal()

    def gradients(self, batch: Batch, branch: RunBranch) -> Rows:
        """Leave the gradients of a verified step, summed over the ranks, and return the sum of its
        figures. Raises Corrupted for a fault, after which a run is to stop or which does not go
        away."""
        self._seal()  # in the first step
        found: list[str] = []
        self._mend(found.append)
        figures = self._gradients.run(
            lambda attempt: self._own(batch, branch, attempt),
            lambda attempt: self._other(branch, attempt),
            found.append,
        )
        self._running.keep([self._after], self._after_digests)
        self._report(found)
        return figures

    def update(self) -> None:
        """Update the weights, twice in a verified step. Raises Corrupted as `gradients` does."""
        if not self.due():
            self.parts.update.step()
            return
        found: list[str] = []
        self._update.run(found.append)
        self.parts.flat.invalidate_narrow()
        self._report(found)

    def _mend(self, tell: Callable[[str], None]) -> None:
        """Undo what has changed in memory since the step before."""
        names = self._weights.names, self.parts.buffers.names
        weights, running = self._weights.mend(), self._running.mend()
        if running >= 0:  # counted through the micro-batches, of which ranks have other numbers
            running %= len(names[1])
        every = gather(self.comm, np.array([weights, running]).view(np.uint64), tell)
        for column, those in zip(every.view(np.int64).T, names, strict=True):
            for line in changes(column, those):
                tell(line)

    def _own(self, batch: Batch, branch: RunBranch, attempt: int) -> Branch:
        """Compute the branch of this rank."""
        parts, now = self.parts, self.state
        if attempt:
            self._running.restore()
            # The batch in memory may be what is wrong.
            batch = parts.data.train.batch(now.epoch, now.step_in_epoch)
        rows, inputs = self._run(branch, batch, parts.sync, parts.buffers.use)
        self._after = self._statistics.read()
        self._after_digests = self._running.digests([self._after])
        statistics = self._statistics.digests(self._after, len(parts.buffers.mine))
        return Branch(rows.copy(), np.append(statistics, inputs))

    def _other(self, branch: RunBranch, attempt: int) -> Branch:
        """Compute the branch of the next rank."""
        now, count, mine = self.state, len(self._loader.sampler.mine), self._statistics.read()
        order = self._order
        if attempt or order is None or order[0] != now.epoch:  # that in memory may be wrong
            order = self._order = now.epoch, self._loader.sampler.order(now.epoch)
        other = self._loader.batch(now.epoch, now.step_in_epoch, order[1])
        guest = Guest(self._statistics, self.comm, self._running.copies[0], count)
        rows, inputs = self._run(branch, other, self._sync, guest.use)
        statistics = self._statistics.digests(guest.end(), count)
        self._statistics.write(mine)
        return Branch(rows.copy(), np.append(statistics, inputs))

    def _run(
        self, branch: RunBranch, batch: Batch, sync: GradientSync, use: Callable[[int], None]
    ) -> tuple[Rows, Digests]:
        for p in self.parts.flat.parameters:
            p.grad = None
        self.parts.flat.invalidate_narrow()  # which may be what is wrong
        self.parts.sync.exchanging = False  # its hooks hear of another rank's gradients too
        result = branch(batch, sync, use)
        sync.end_branch()
        self.parts.sync.exchanging = True
        return result

    def _report(self, found: list[str]) -> None:
        """Warn of faults that were repaired, or raise Corrupted where the run is to stop."""
        for fault in found:
            line = f"step {self.state.step + 1}: corrupted: {fault}"
            if self.config.on_corruption == "stop":
                raise Corrupted(f"{line}; the checkpoint before it is good")
            if self.comm.rank == 0:
                warn(f"{line}; repaired")


def _untold(parts: Parts) -> Iterator[str]:
    """Yield the layers with parameters in the order of the forward pass; none where running
    statistics tell in which layer a pass went wrong."""
    if not any(isinstance(m, BatchNorm) for m in parts.model.modules()):
        yield from (name.rpartition(".")[0] for name in reversed(parts.names))


def _regions(parts: Parts) -> list[Region]:
    """Return the weights and the optimizer's slots."""
    flat, groups = parts.flat, parts.update.optimizer.groups
    weights = [f"weights of {name}" for name in parts.names]
    regions: list[Region] = [FlatRegion(flat.data, flat.offsets, weights)]
    for slot in parts.update.slots:
        arrays = [group.slots()[slot] for group in groups if slot in group.slots()]
        if len(groups) == 1 and groups[0].flat is flat and arrays:
            labels = [f"{slot} of {name}" for name in parts.names]
            regions.append(FlatRegion(arrays[0], flat.offsets, labels))
        else:  # a rank's share: as many pieces on all ranks
            regions.append(JoinedRegion(arrays, [slot]))
    return regions
