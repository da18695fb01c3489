"""Forward and backward passes on the micro-batches of a rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from ...autograd import OutOfMemory, Tensor, added_losses, context, from_numpy, trace
from ...autograd.capture.sparsity import Sparsity
from ...autograd.random import keyed
from ...datasets import Batch
from .. import build
from ..config import TrainConfig
from ..distributed.sync import GradientSync
from ..distributed.verification.digests import Digests
from ..distributed.verification.gradients import Rows
from ..errors import warn
from ..setup import Parts
from ..tasks.task import StepOutput
from ..timeline.timeline import Timeline
from ..values import parse_every
from .evaluate import step_sums
from .layer_inputs import LayerInputs
from .record import RunRecord
from .state import State


class Passes:
    """Runs forward and backward on micro-batches, and leaves their gradients in `parts.flat`."""

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        state: State,
        record: RunRecord,
        timeline: Timeline,
        inputs: LayerInputs,
    ) -> None:
        self.config, self.parts, self.state = config, parts, state
        self.record, self.timeline, self.inputs = record, timeline, inputs
        self.sampling = parse_every(config.sparsity)
        self.sweep: Callable[[Tensor, Tensor], None] = Tensor.backward
        self.told: set[str] = set()
        traced = trace(self.forward_backward, training=True, tell=self.tell)
        self.train_step: Callable[..., StepOutput] = traced
        self.verified_step: Callable[..., StepOutput] = traced
        if inputs.names:
            self.verified_step = trace(
                self.forward_sums_backward, training=True, beside=traced, tell=self.tell
            )
        self.layer_sums: list[list[int]] | None = None  # of each micro-batch, in a verified step
        if parts.statistics:  # a capture would not repeat their exchange
            self.sweep, self.train_step = parts.statistics.sweep, self.forward_backward

    def tell(self, changed: str) -> None:
        """Say once what a model changes in Python's state, which a captured step would not."""
        if changed not in self.told and self.record.folder.writes:
            warn(f"model: forward {changed}; steps run without capture")
        self.told.add(changed)

    def run(self, batch: Batch, sync: GradientSync, use: Callable[[int], None]) -> Rows:
        """Run forward and backward on the micro-batches of a rank, each with the buffers that `use`
        of its number chooses."""
        jobs = [partial(self.micro_batch, part) for part in batch.parts()]
        if self.parts.statistics:
            with self.timeline.span("micro-batches", "micro-batch"):
                return np.array(self.parts.statistics.run(jobs, sync, use))
        rows = np.zeros((len(jobs), len(self.parts.task.metrics) + 2))
        for i, job in enumerate(jobs):
            if i:
                sync.set_aside()  # the gradients of the one before
            use(i)
            with self.timeline.span(f"micro-batch {i}", "micro-batch"):
                rows[i] = job()
        return rows

    def verified(
        self, batch: Batch, sync: GradientSync, use: Callable[[int], None]
    ) -> tuple[Rows, Digests]:
        """Do the same as `run` in a step that is done twice; return also the digests of what the
        layers have read."""
        self.layer_sums = []
        try:
            return self.run(batch, sync, use), self.inputs.digests(self.layer_sums)
        finally:
            self.layer_sums = None

    def micro_batch(self, batch: Batch) -> list[float]:
        """Run forward and backward on a micro-batch, which a small last batch may leave empty;
        return its sums."""
        if not len(batch.labels):
            return [0.0] * (len(self.parts.task.metrics) + 2)
        # Dropout is keyed by sample and step, never by rank.
        with keyed(batch.indices, self.config.seed, self.state.step):
            return self.backward(batch)

    def backward(self, batch: Batch) -> list[float]:
        """Run forward and backward on a micro-batch; return its sums of loss, metrics, samples."""
        parts, count = self.parts, len(batch.labels)
        parts.model.train()
        # The gradient is seeded with the micro-batch's share of the batch, so that the sum over
        # all micro-batches is the gradient of the mean over the whole batch. A worker that trains
        # alone has a batch of its own.
        whole = count if parts.local else batch.total
        share = np.asarray(count / whole, self.config.dtype)
        inputs = map(from_numpy, (*parts.task.inputs(batch), share))
        try:
            with self.observing():
                return self.step(count, *inputs)
        except OutOfMemory as error:
            with build.mixed(self.config.precision):
                least = build.stashed(parts.model, parts.task, parts.data.train, count)
            size = self.config.batch_size
            raise build.memory_error(error, "--batch-size", size, least) from error

    def step(self, count: int, *inputs: Tensor) -> list[float]:
        """Run a traced step on the inputs of `count` samples; return its sums."""
        if self.layer_sums is None:
            return step_sums(self.train_step(*inputs), count)
        size = len(self.parts.task.metrics) + 1
        output = self.verified_step(*inputs)
        self.layer_sums.append([int(x.item()) for x in output[size:]])
        return step_sums(output[:size], count)

    def observing(self) -> AbstractContextManager[Any]:
        """Return what watches the calls of a micro-batch, which is not replayed then."""
        ledger = self.record.ledger
        if not self.samples_zeros():
            return self.timeline.operations(ledger)
        return context.using(observer=Sparsity(ledger, [self.parts.flat.data]))

    def forward_backward(self, *inputs: Tensor) -> StepOutput:
        """Compute loss, metrics and the gradients of all weights from a task's inputs, followed by
        the seed of the gradient. Traced: llvm with one thread captures the second call, and replays
        the capture from the third on."""
        return self._forward_backward(inputs, lambda loss: ())

    def forward_sums_backward(self, *inputs: Tensor) -> StepOutput:
        """Compute the same, and what the layers have read."""
        return self._forward_backward(inputs, self.inputs.sums)

    def _forward_backward(
        self, inputs: Sequence[Tensor], observe: Callable[[Tensor], Sequence[Tensor]]
    ) -> StepOutput:
        *own, share = inputs
        task = self.parts.task
        with build.mixed(self.config.precision), added_losses() as terms:
            output = self.parts.model(own[0])
            loss = sum(terms, task.loss(output, *own, training=True))
        sums = *task.sums(output, *own), *observe(loss)
        self.sweep(loss, share)
        return loss, *sums

    def samples_zeros(self) -> bool:
        """Tell whether zeros are counted in the current step, which is not replayed then."""
        return bool(self.sampling) and (self.state.step + 1) % self.sampling == 0
