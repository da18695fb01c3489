"""What the training loop, the evaluation and the commands know of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from numpy.typing import NDArray

from ...autograd import Tensor
from ...datasets import Batch, Source

StepOutput: TypeAlias = tuple[Tensor, ...]  # mean loss, then the sum of each metric; all 0-d


def change_text(change: float) -> str:
    """Return the difference of two figures with its sign and four digits: +0.0012."""
    return f"{change:+z.4f}"


@dataclass(frozen=True)
class TaskMetric:
    """A figure of merit: the mean over the samples of what the task sums up.

    Logs, results and checkpoints call it `name`, train_NAME, test_NAME and so on. `text` formats a
    value with its unit, `change` the difference of two in the same unit. `count` names the sum
    where that counts samples, such as "correct"."""

    name: str
    text: Callable[[float], str]
    higher_is_better: bool = True
    count: str = ""
    change: Callable[[float], str] = change_text

    def is_better(self, value: float, best: float) -> bool:
        """Tell whether a value is better than the best one so far; NaN never is."""
        return value > best if self.higher_is_better else value < best


class Prediction(NamedTuple):
    """The answer for one sample: plain values for JSON, and the same as a line of text."""

    values: dict[str, Any]
    text: str


class Task(Protocol):
    """What a model is trained for: a file with a frozen dataclass of this shape, and its entry in
    `registry`; the loop, the evaluation, the commands and the checkpoints ask it for everything.

    Steps are captured, and a replay does not see that an attribute of the task has changed. Hence
    the dataclass is frozen (`setup.assemble` insists on it), and what varies between steps is one
    of the `inputs`."""

    @property
    def metrics(self) -> tuple[TaskMetric, ...]:
        """The metrics, at least one; the first one chooses the best checkpoint."""

    def output_shape(self, data: Source) -> tuple[int, ...]:
        """Return the shape of a model's output for one sample of a data set."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what a step reads of a micro-batch, arrays or tensors; the model is called with
        the first."""

    def loss(self, output: Tensor, *inputs: Tensor, training: bool) -> Tensor:
        """Return the mean loss over the samples (0-d), which training minimises together with the
        terms that the model adds (`add_loss`)."""

    def sums(self, output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the sum of each metric over the samples (0-d). Sums, since ranks add them up."""

    def show(self, values: Sequence[float]) -> str:
        """Return the means of the metrics as the progress line has them."""

    def answers(self, output: Tensor, images: Tensor) -> Tensor:
        """Return what `predict` reports of each sample, (n, values)."""

    def prediction(self, answer: NDArray[Any], data: Source, label: int | None) -> Prediction:
        """Return the prediction that a row of `answers` stands for; `label` is the sample's class
        in `data`, None where it is not known."""
