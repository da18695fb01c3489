"""Loss and accuracy of a model over a data set, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ...autograd import Tensor, context, cross_entropy, from_numpy, nn, no_grad, trace
from ...datasets import Loader
from ..distributed.sync import Reducer, total
from ..progress import Progress

StepOutput: TypeAlias = tuple[Tensor, Tensor]  # mean loss, number of correct samples


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many images are classified right."""
    with no_grad(), context.using(phase="evaluate", scope="metrics"):
        right: Tensor = (logits.detach().argmax(1) == labels).sum()
    return right


def sums(output: StepOutput, count: int) -> tuple[float, float, float]:
    """Return the sums that ranks add up: loss, correct, samples."""
    loss, right = output
    return float(loss.item()) * count, float(right.item()), float(count)


def make_eval_step(model: nn.Module) -> Callable[[Tensor, Tensor], StepOutput]:
    """Return the traced function (images, labels) -> StepOutput of a model in evaluation mode."""

    def eval_step(images: Tensor, labels: Tensor) -> StepOutput:
        logits = model(images)
        return cross_entropy(logits, labels), num_correct(logits, labels)

    model.eval()
    output: Callable[[Tensor, Tensor], StepOutput] = trace(eval_step)
    return output


def evaluate(
    eval_step: Callable[[Tensor, Tensor], StepOutput],
    data: Loader,
    reducer: Reducer,
    progress: Progress,
) -> tuple[float, float, float]:
    """Return the sums of loss, correct and samples over the batches of all ranks. Smaller parts
    weigh less, so the totals do not depend on the number of ranks."""
    rows = np.zeros((len(data.sampler.mine), 3))
    with no_grad(), context.using(phase="evaluate"):
        for step, batch in enumerate(data.epoch(0), 1):
            for row, part in zip(rows, batch.parts(), strict=True):
                if len(part.labels):
                    output = eval_step(from_numpy(part.images), from_numpy(part.labels))
                    row += sums(output, len(part.labels))
            progress.evaluating(data.dataset.split, step, len(data))
    loss, right, count = total(rows, reducer).tolist()
    return loss, right, count
