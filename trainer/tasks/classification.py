"""Classification: cross-entropy over classes, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...autograd import Tensor, context, cross_entropy, no_grad
from ...datasets import Batch
from ..cost.report.units import accuracy_text


@dataclass(frozen=True)
class Classification:
    """Images in, a score for each class out. `label_smoothing` is the share of a label that is
    spread over all classes, in training alone."""

    label_smoothing: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy."""
        return ("accuracy",)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return images (n, C, H, W) and labels (n,)."""
        return batch.images, batch.labels

    def loss(self, output: Tensor, *inputs: Tensor, training: bool) -> Tensor:
        """Return the mean cross-entropy."""
        smoothing = self.label_smoothing if training else 0.0
        loss: Tensor = cross_entropy(output, inputs[1], label_smoothing=smoothing)
        return loss

    def sums(self, output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the number of correct samples."""
        return (num_correct(output, inputs[1]),)

    def show(self, values: Sequence[float]) -> str:
        """Return accuracy in percent."""
        return accuracy_text(values[0])


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many samples have their label's logit as the highest."""
    with no_grad(), context.using(phase="evaluate", scope="metrics"):
        correct: Tensor = (logits.detach().argmax(1) == labels).sum()
    return correct
