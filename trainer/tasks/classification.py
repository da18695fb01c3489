"""Classification: cross-entropy over classes, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from ...autograd import Tensor, context, cross_entropy, no_grad, softmax
from ...datasets import Batch, Source
from ..cost.report import accuracy_text, points_text
from .task import Prediction, TaskMetric


@dataclass(frozen=True)
class Classification:
    """Images in, a score for each class out. `label_smoothing` is the share of a label that is
    spread over all classes, in training alone."""

    label_smoothing: float = 0.0

    metrics: ClassVar[tuple[TaskMetric, ...]] = (
        TaskMetric("accuracy", accuracy_text, count="correct", change=points_text),
    )

    def output_shape(self, data: Source) -> tuple[int, ...]:
        """Return (classes,)."""
        return (len(data.classes),)

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

    def answers(self, output: Tensor, images: Tensor) -> Tensor:
        """Return the probability of each class, (n, classes)."""
        probabilities: Tensor = softmax(output, 1)
        return probabilities

    def prediction(self, answer: NDArray[Any], data: Source, label: int | None) -> Prediction:
        """Return the most likely class, with its probability."""
        best = int(answer.argmax())
        predicted, truth = data.classes[best], None if label is None else data.classes[label]
        values = {"class": best, "name": predicted, "label": truth}
        labelled = "" if truth is None else f"   (labelled {truth})"
        return Prediction(
            values | {"probability": float(answer[best])},
            f"{predicted:<12} {answer[best]:8.2%}{labelled}",
        )


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many samples have their label's logit as the highest."""
    with no_grad(), context.using(phase="evaluate", scope="metrics"):
        correct: Tensor = (logits.detach().argmax(1) == labels).sum()
    return correct
