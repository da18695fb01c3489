"""Loss and metrics of a model over a data set, on any number of ranks, and what they choose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...autograd import (
    OutOfMemory,
    Tensor,
    added_losses,
    context,
    from_numpy,
    nn,
    no_grad,
    trace,
)
from ...autograd.random import keyed
from ...datasets import Loader
from ..build import memory_error, mixed
from ..distributed.buffers import total
from ..distributed.comm import Comm
from ..distributed.exchange import Reducer
from ..errors import NotFinite
from ..progress import Progress
from ..setup import Parts
from ..stop import Stop
from ..tasks.task import StepOutput, Task
from .state import State
from .views import check_views, mean_output


def step_sums(output: StepOutput, count: int) -> list[float]:
    """Return the sums that ranks add up: loss, metrics, samples."""
    loss, *metrics = output
    return [float(loss.item()) * count, *(float(m.item()) for m in metrics), float(count)]


def make_eval_step(
    model: nn.Module, task: Task, precision: str = "float32", tta: str = "none"
) -> Callable[..., StepOutput]:
    """Return the traced function from a task's inputs to loss and metrics, for a model in
    evaluation mode, computed in a precision, of outputs averaged over the views of `tta`. A model
    whose calls cannot be repeated runs each time."""

    def eval_step(*inputs: Tensor) -> StepOutput:
        with mixed(precision), added_losses() as terms:
            output = mean_output(model, inputs[0], tta)
            loss = sum(terms, task.loss(output, *inputs, training=False))
        return loss, *task.sums(output, *inputs)

    model.eval()
    traced: Callable[..., StepOutput] = trace(eval_step, strict=False, tell=lambda changed: None)
    return traced


def evaluate(
    eval_step: Callable[..., StepOutput],
    task: Task,
    data: Loader,
    comm: Comm,
    progress: Progress,
    between: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the sums of loss, metrics and samples over the batches of all ranks. Smaller parts
    weigh less, so the totals do not depend on the number of ranks. `between` is called after each
    batch, and may end the evaluation by an exception."""
    rows = np.zeros((len(data.sampler.mine), len(task.metrics) + 2))
    with comm.journal.doing("evaluating"), no_grad(), context.using(phase="evaluate"):
        for step, batch in enumerate(data.epoch(0), 1):
            for row, part in zip(rows, batch.parts(), strict=True):
                if len(part.labels):
                    with keyed(part.indices, 0, 0):
                        output = eval_step(*map(from_numpy, task.inputs(part)))
                    row += step_sums(output, len(part.labels))
            progress.evaluating(data.dataset.split, step, len(data))
            between()
    sums: list[float] = total(rows, Reducer(comm, data.sampler.parts)).tolist()
    return sums


class Evaluator:
    """Evaluates a model between the steps of its training, and keeps in `state` what comes out,
    unless it is stopped before (`Stopped`)."""

    def __init__(
        self, parts: Parts, state: State, stop: Stop, precision: str, tta: str = "none"
    ) -> None:
        self.parts, self.state, self.stop = parts, state, stop
        check_views(tta, parts.task, parts.data.test.dataset)
        self.eval_step = make_eval_step(parts.model, parts.task, precision, tta)
        self.metric = parts.task.metrics[0].name

    def validate(self, progress: Progress) -> dict[str, float]:
        """Evaluate on the set that chooses the best checkpoint; return loss and metrics under the
        names that the log has for them."""
        now, data = self.state, self.parts.data.choosing
        self.parts.buffers.use_means()
        figures = self._evaluate(data, progress)
        now.figures.update(figures)
        now.evaluated = now.step
        now.take_score(figures[f"{data.dataset.split}_{self.metric}"])
        return figures

    def test(self, progress: Progress, restore_best: Callable[[], bool]) -> dict[str, Any]:
        """Evaluate on the test set, which had no part in the training where there is a validation
        set: the last weights, then the best ones, which `restore_best` loads, if it can. Return
        what the result says of the best."""
        now, data, metric = self.state, self.parts.data, self.metric
        best = {f"best_{metric}": now.best, "best_step": now.best_step}
        if data.choosing is data.test:
            return best
        self.parts.buffers.use_means()
        now.figures.update(self._evaluate(data.test, progress))
        of_best = now.figures[f"test_{metric}"]
        if now.best_step != now.step:
            is_restored = restore_best()
            # What the best checkpoint has is what was evaluated then: averages, if there are any.
            found = self._evaluate(data.test, progress, restored=True) if is_restored else {}
            of_best = found.get(f"test_{metric}")
        name = f"validation_{metric}"
        return {**best, name: now.figures[name], f"best_test_{metric}": of_best}

    def _evaluate(
        self, data: Loader, progress: Progress, restored: bool = False
    ) -> dict[str, float]:
        """Return mean loss and metrics over a set, each as SPLIT_NAME, by the average of the
        weights if there is one and the weights are not `restored`."""
        now, task, begun = self.state, self.parts.task, time.monotonic()
        split = data.dataset.split
        try:
            self.parts.model.eval()
            comm = self.parts.reducer.comm
            with nullcontext() if restored else self.parts.update.averaged():
                loss, *sums, count = evaluate(
                    self.eval_step, task, data, comm, progress, lambda: self.stop.check(comm)
                )
        except OutOfMemory as error:
            raise memory_error(error, "--eval-batch-size", data.sampler.batch_size) from error
        if not math.isfinite(loss):
            raise NotFinite(
                f"{split} loss: expected a finite number after step {now.step}, "
                f"got {loss / count}; try a smaller --lr"
            )
        now.evaluations += 1
        now.overhead_seconds += time.monotonic() - begun
        pairs = zip(("loss", *now.metric_names), (loss, *sums), strict=True)
        return {f"{split}_{name}": whole / count for name, whole in pairs}
