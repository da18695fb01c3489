"""Steps that are done twice, and ranks that are compared: what `--verify-every` and
`--compare-every` ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ...datasets import Batch
from ..config import TrainConfig
from ..distributed.comm import Comm
from ..distributed.corruption import Corrupted, DesyncGuard, Rows, Verifier
from ..distributed.sync import GradientSync
from ..errors import warn
from ..setup import Parts
from .state import State

# Runs forward and backward on a batch's micro-batches, each after a call with its number.
Branch: TypeAlias = Callable[[Batch, GradientSync, Callable[[int], None]], Rows]


class Verification:
    """Verifies the steps of a training, and compares its ranks, as often as the options say."""

    def __init__(self, config: TrainConfig, comm: Comm, parts: Parts, state: State) -> None:
        self.config, self.comm, self.parts, self.state = config, comm, parts, state
        self._guard = DesyncGuard(comm, parts.flat, parts.names)
        self._verifier = Verifier(comm, parts.flat, parts.names, parts.data.train.sampler.parts)
        self._loader = parts.data.train.of_rank((comm.rank + 1) % comm.size)
        mine = len(self._loader.sampler.mine)
        self._sync = GradientSync(parts.flat, parts.reducer, parts=mine, hooked=False)

    def due(self) -> bool:
        """Tell whether the step that comes is verified."""
        every = self.config.verify_every
        return every > 0 and (self.state.step + 1) % every == 0

    def compare(self) -> None:
        """Compare the ranks where that is due. Raises Corrupted where they differ."""
        every, rates = self.config.compare_every, self.parts.update.rates
        if self.comm.size > 1 and every and self.state.step % every == 0:
            self._guard.check(self.state.step, rates)

    def gradients(self, batch: Batch, branch: Branch) -> Rows:
        """Leave the gradients of a verified step, summed over the ranks, and return its figures.
        Raises Corrupted for a fault, after which a run is to stop or which does not go away."""
        parts, now = self.parts, self.state
        other = self._loader.batch(now.epoch, now.step_in_epoch)
        statistics = parts.buffers.snapshot()

        def own() -> Rows:
            parts.buffers.restore(statistics)  # which an attempt before has moved
            return self._run(branch, batch, parts.sync, parts.buffers.use)

        found: list[str] = []
        rows = self._verifier.step(
            own,
            partial(self._run, branch, other, self._sync, parts.buffers.use_spare),
            found.append,
        )
        for fault in found:
            line = f"step {now.step + 1}: corrupted: {fault}"
            if self.config.on_corruption == "stop":
                raise Corrupted(f"{line}; the checkpoint before it is good")
            if self.comm.rank == 0:
                warn(f"{line}; the step was done again")
        return rows

    def _run(
        self, branch: Branch, batch: Batch, sync: GradientSync, use: Callable[[int], None]
    ) -> Rows:
        for p in self.parts.flat.parameters:
            p.grad = None
        self.parts.sync.exchanging = False  # its hooks hear of another rank's gradients too
        rows = branch(batch, sync, use)
        sync.end_branch()
        self.parts.sync.exchanging = True
        return rows
