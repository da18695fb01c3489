"""Tallygrad's side: a model that trains on or classifies one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tallygrad.autograd import (
    Ledger,
    Tensor,
    autocast,
    backends,
    context,
    cross_entropy,
    from_numpy,
    manual_seed,
    models,
    no_grad,
    trace,
)
from tallygrad.autograd.nn import Module, flatten, gradient_order, keep_narrow_weights
from tallygrad.autograd.optim import SGD

from .cases import CLASSES, Case
from .options import UsageError, unknown

RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
PREFERRED = ("llvm", "numpy")


def create(case: Case) -> Module:
    """Return a new model with weights from seed 0."""
    manual_seed(0)
    return models.create(case.model, input_shape=case.shape, classes=CLASSES)


def batch(case: Case) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return random images (N, C, H, W) and labels (N,).

    Images are channels-last in memory, as the loader returns them.
    """
    channels, height, width = case.shape
    rng = np.random.default_rng(0)
    images = rng.standard_normal((case.batch, height, width, channels), dtype=np.float32)
    return images.transpose(0, 3, 1, 2), rng.integers(0, CLASSES, case.batch)


class Ours:
    """A model of Tallygrad: `step()` trains it on the same batch each time, or classifies it.

    `step` is traced, as in the trainer; `plain` is the same step without tracing. ImportError where
    the type is not to be had.
    """

    def __init__(self, case: Case, mode: str, backend: str, dtype: str = "float32") -> None:
        self.backend, self.ledger, self.dtype = backend, Ledger(), dtype
        self.images, self.labels = batch(case)
        self.model = create(case).train(mode == "train")
        self.step = self.train if mode == "train" else self.infer
        self.plain = self.train_plainly if mode == "train" else self.infer_plainly
        if mode == "train":
            order = gradient_order(lambda: self.loss(*self.data()), [*self.model.parameters()])
            self.optimizer = SGD(flatten(order), RATE, momentum=MOMENTUM, weight_decay=DECAY)
            self.train_step = trace(self.backward, training=True)
        else:
            if dtype == "bf16":
                keep_narrow_weights(self.model)
            self.classify = trace(self.logits)

    def mixed(self) -> autocast:
        """Return the block in which the model and its loss compute in the type."""
        return autocast("bfloat16", enabled=self.dtype == "bf16")

    def data(self) -> tuple[Tensor, Tensor]:
        """Return images and labels."""
        return from_numpy(self.images), from_numpy(self.labels)

    def logits(self, images: Tensor) -> Tensor:
        """Return the model's output."""
        with self.mixed():
            output: Tensor = self.model(images)
        return output

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a forward pass."""
        with self.mixed():
            return cross_entropy(self.model(images), labels)

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run a forward and a backward pass, and return the loss."""
        loss = self.loss(images, labels)
        loss.backward()
        return loss

    def train(self) -> None:
        """Run a training step: forward, loss, backward and update."""
        self._train(self.train_step)

    def train_plainly(self) -> None:
        """Run a training step without tracing."""
        self._train(self.backward)

    def _train(self, backward: Callable[[Tensor, Tensor], Tensor]) -> None:
        with context.using(backend=self.backend, ledger=self.ledger):
            backward(*self.data())
            self.optimizer.step()
            self.optimizer.zero_grad()

    def infer_plainly(self) -> Any:
        """Return the logits, without tracing."""
        with no_grad(), context.using(backend=self.backend, ledger=self.ledger, phase="evaluate"):
            return self.logits(from_numpy(self.images))

    def infer(self) -> Any:
        """Return the logits."""
        with context.using(backend=self.backend, ledger=self.ledger, phase="evaluate"):
            return self.classify(from_numpy(self.images))

    def count(self, steps: int = 1, plain: bool = False) -> Ledger:
        """Run some steps, without tracing if `plain`, and return their ledger."""
        self.ledger = Ledger()
        for _ in range(steps):
            (self.plain if plain else self.step)()
        return self.ledger


def choose_backend(wanted: str | None, notes: list[str]) -> str:
    """Return `wanted` or, if that is None, the best backend that loads.

    Backends that do not load are described in `notes`. Raises UsageError if the wanted backend is
    unknown or does not load.
    """
    available = [name for name in backends.names() if name != "meta"]  # which computes no values
    if wanted is not None and wanted.partition(":")[0] not in available:
        raise UsageError(f"--backend: {unknown(wanted, available)}")
    for name in [wanted] if wanted else [name for name in PREFERRED if name in available]:
        try:
            backends.get(name)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            reason = f"backend {name} does not load: {first_line(error)}"
            if wanted:
                raise UsageError(f"--backend: {reason}") from error
            notes.append(reason)
        else:
            return name
    return "numpy"


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
