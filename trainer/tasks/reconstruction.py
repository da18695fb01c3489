"""Reconstruction: squared error against the input, which autoencoders are trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from ...autograd import Tensor, context, mse_loss, no_grad
from ...datasets import Batch, Source
from .task import Prediction, TaskMetric


def error_text(error: float) -> str:
    """Return a mean absolute error with four digits: 0.1234."""
    return f"{error:.4f}"


@dataclass(frozen=True)
class Reconstruction:
    """Images in, the same images out. Errors are those of normalised pixels, so their unit is the
    standard deviation of the data set's pixels."""

    metrics: ClassVar[tuple[TaskMetric, ...]] = (
        TaskMetric("mae", error_text, higher_is_better=False),
    )

    def output_shape(self, data: Source) -> tuple[int, ...]:
        """Return (C, H, W)."""
        return data.input_shape

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return images (n, C, H, W), which are the target, too."""
        return (batch.images,)

    def loss(self, output: Tensor, *inputs: Tensor, training: bool) -> Tensor:
        """Return the mean squared error over pixels and samples."""
        loss: Tensor = mse_loss(output, inputs[0])
        return loss

    def sums(self, output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the sum of the samples' mean absolute errors."""
        with no_grad(), context.using(phase="evaluate", scope="metrics"):
            total: Tensor = absolute_errors(output.detach(), inputs[0]).sum()
        return (total,)

    def show(self, values: Sequence[float]) -> str:
        """Return the mean absolute error under its name."""
        return f"mae {error_text(values[0])}"

    def answers(self, output: Tensor, images: Tensor) -> Tensor:
        """Return the mean absolute error of each sample, (n, 1)."""
        return absolute_errors(output, images).reshape(-1, 1)

    def prediction(self, answer: NDArray[Any], data: Source, label: int | None) -> Prediction:
        """Return the error of a sample's reconstruction."""
        truth = None if label is None else data.classes[label]
        labelled = "" if truth is None else f"   (labelled {truth})"
        error = float(answer[0])
        return Prediction({"label": truth, "mae": error}, f"mae {error_text(error)}{labelled}")


def absolute_errors(output: Tensor, images: Tensor) -> Tensor:
    """Return the mean absolute error of each sample, (n,); both (n, C, H, W)."""
    errors: Tensor = (output - images).abs().flatten(1).mean(1)
    return errors
