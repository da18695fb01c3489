"""What the examples share: drawn digits, steps of training, and how a result is printed beside a
reference and the bill of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallygrad import datasets
from tallygrad.autograd import Ledger, Tensor, context, cross_entropy, nn, no_grad, optim, tensor
from tallygrad.trainer.cost.report.units import short
from tallygrad.trainer.cost.workload import other_operations


@contextmanager
def counted() -> Iterator[Ledger]:
    """Count the work within a block in a ledger of its own."""
    ledger = Ledger()
    with context.using(ledger=ledger):
        yield ledger


def digits(split: str, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the first images of the drawn digits, (count, 784) in [0, 1], and their labels."""
    data = datasets.load("digits", split)
    images = data.read(np.arange(count)).reshape(count, -1)
    return np.float32(1 / 255) * images, data.labels[:count]


def batches(count: int, size: int, epochs: int, seed: int = 0) -> Iterator[NDArray[Any]]:
    """Yield the numbers of the samples of each batch; every epoch has an order of its own."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count, size))


def class_losses(
    model: nn.Module, x: NDArray[Any], labels: NDArray[Any], epochs: int, size: int = 100
) -> Iterator[Tensor]:
    """Yield the cross-entropy of each batch, computed when it is asked for."""
    for batch in batches(len(x), size, epochs):
        yield cross_entropy(model(tensor(x[batch])), tensor(labels[batch]))


def minimise(optimizer: optim.Optimizer, losses: Iterable[Tensor]) -> None:
    """Take a step against the gradient of each loss, before the next one is computed."""
    for loss in losses:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def accuracy(model: nn.Module, x: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the share of samples whose largest output is that of their label."""
    with no_grad():
        return float((model.eval()(tensor(x)).argmax(1).numpy() == labels).mean())


def report(
    name: str,
    result: float,
    band: tuple[float, float],
    reference: tuple[str, float],
    training: Ledger,
    answer: Ledger,
) -> None:
    """Print a result, the reference value, and the bill: MACs of the training by pass, and how many
    inferences (`answer` is the work of one) they are worth."""
    total, one = training.total(), answer.total().macs
    passes = {phase: cost.macs for phase, cost in training.by("phase").items() if cost.macs}
    parts = " + ".join(f"{phase} {short(macs)}" for phase, macs in passes.items())
    print(f"{'result':<11}{result:<10.4g}{name}, expected in {band[0]:g} to {band[1]:g}")
    print(f"{'reference':<11}{reference[1]:<10.4g}{reference[0]}")
    print(f"{'training':<11}{short(total.macs)} MACs = {parts}")
    print(f"{'':<11}{short(other_operations(total))} other operations")
    print(f"{'worth':<11}{short(total.macs / one)} inferences of {short(one)} MACs")
