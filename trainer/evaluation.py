"""Loss and accuracy of a model over a data set, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ..autograd import Tensor, context, cross_entropy, from_numpy, nn, no_grad, trace
from ..datasets import Loader
from .distributed.sync import Reducer, total
from .progress import Progress

Judged: TypeAlias = tuple[Tensor, Tensor]  # mean loss and number of hits


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many images are classified right."""
    with no_grad(), context.using(phase="evaluate", scope="metrics"):
        right: Tensor = (logits.detach().argmax(1) == labels).sum()
    return right


def sums(judged: Judged, count: int) -> tuple[float, float, float]:
    """Return the sums that ranks add up: loss, hits, samples."""
    loss, right = judged
    return float(loss.item()) * count, float(right.item()), float(count)


def judging(model: nn.Module) -> Callable[[Tensor, Tensor], Judged]:
    """Return the function that judges a model, in evaluation mode, by images and labels."""

    def judge(images: Tensor, labels: Tensor) -> Judged:
        logits = model(images)
        return cross_entropy(logits, labels), hits(logits, labels)

    model.eval()
    judged: Callable[[Tensor, Tensor], Judged] = trace(judge)
    return judged


def evaluate(
    judge: Callable[[Tensor, Tensor], Judged],
    data: Loader,
    reducer: Reducer,
    progress: Progress,
) -> tuple[float, float, float]:
    """Return the sums of loss, hits and samples over the batches of all ranks: smaller parts weigh
    less, so the totals do not depend on the number of ranks."""
    rows = np.zeros((len(data.sampler.mine), 3))
    with no_grad(), context.using(phase="evaluate"):
        for step, batch in enumerate(data.epoch(0), 1):
            for row, part in zip(rows, batch.parts(), strict=True):
                if len(part.labels):
                    judged = judge(from_numpy(part.images), from_numpy(part.labels))
                    row += sums(judged, len(part.labels))
            progress.evaluating(data.dataset.split, step, len(data))
    loss, right, count = total(rows, reducer).tolist()
    return loss, right, count
