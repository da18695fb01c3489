"""What the training loop and the evaluation know of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from ...autograd import Tensor
from ...datasets import Batch

StepOutput: TypeAlias = tuple[Tensor, ...]  # mean loss, then the sum of each metric; all 0-d


class Task(Protocol):
    """What a model is trained for. A new task is a file with a class of this shape; the loop, the
    evaluation and the checkpoints need no change for it. Steps are traced, and a trace does not see
    that an attribute of the task changes: what varies between steps is one of the `inputs`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, at least one. Higher is better; the first one chooses the best
        checkpoint. Logs and results call it train_NAME, test_NAME and so on."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what a step reads of a micro-batch, arrays or tensors; the model is called with
        the first."""

    def loss(self, output: Tensor, *inputs: Tensor, training: bool) -> Tensor:
        """Return the mean loss over the samples (0-d), which training minimises."""

    def sums(self, output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the sum of each metric over the samples (0-d). Sums, since ranks add them up."""

    def show(self, values: Sequence[float]) -> str:
        """Return the means of the metrics as the progress line has them."""
