"""Steps of the trainer on random images: whole ones, from the loader to the update, as `tallygrad
train` does them. Evaluation, checkpoints and the log's lines are no part of a step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd import context
from ...autograd.tensor import Tensor
from ...datasets import ImageDataset
from ..build import loaders
from ..components.logs import RunFolder
from ..config import TrainConfig
from ..distributed.comm import Comm, SerialComm
from ..loop import Training
from ..own_models import registered, usual_task

POOL = 48 << 20  # bytes of random images that a rank draws from, at most
WARM, WARM_SECONDS = 4, 0.3  # steps and seconds until code is made, recorded and settled


class Silent(SerialComm):
    """A rank of several that exchanges nothing and waits for nobody: it does all that a rank does
    but for sums over the ranks. `waited` is when it first wanted a result."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size
        self.waited = 0.0

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return `array` as that of each rank, (size, *shape)."""
        return np.repeat(super().allgather(array), self.size, axis=0)

    def allreduce(self, array: NDArray[Any], op: str = "sum") -> None:
        """Leave `array` as it is, and take down when that is."""
        super().allreduce(array, op)
        self.waited = self.waited or perf_counter()


class Rehearsal:
    """A training of a model on `share` random images a rank and step in a precision; `overlap`
    drives the exchange."""

    def __init__(
        self, comm: Comm, model: str, shape: tuple[int, int, int], classes: int, share: int,
        bucket_mb: float, overlap: str = "none", precision: str = "float32",
    ) -> None:  # fmt: skip
        # Rates that keep weights as they are: labels are random, and numbers must stay finite.
        config = TrainConfig(
            model=model, task=usual_task(registered(model), shape),
            batch_size=share * comm.size, micro_batches=comm.size,
            threads=1, lr=1e-4, schedule="constant", epochs=1 << 20, log_every=1 << 30,
            bucket_mb=bucket_mb, overlap=overlap, precision=precision,
        )  # fmt: skip
        data = _images(shape, classes, share * comm.size)
        nowhere = RunFolder(Path(os.devnull), writes=False)
        self.training = Training(config, comm, nowhere, data=loaders(config, comm, data, data))
        if isinstance(comm, Silent):
            # No sum at all: what it takes is predicted, the work of its own included.
            for reducer in (self.training.parts.reducer, self.training.parts.sync.reducer):
                reducer.fixed = False
        self.training.record.open()
        self.parameters = self.training.parts.flat.parameters
        names = {id(p): name for name, p in self.training.parts.model.named_parameters()}
        self.names = [names[id(p)] for p in self.parameters]
        self.sizes = [p.size * p.dtype.itemsize for p in self.parameters]
        self.ready = [0.0] * len(self.parameters)
        self.ends: list[float] = []
        self.batches = self.training.parts.data.train.endless()

    def stamp(self) -> None:
        """From now on take down when each gradient is final."""
        for i, p in enumerate(self.parameters):
            p.post_grad_hooks.append(self._stamper(i))

    def _stamper(self, index: int) -> Callable[[Tensor], None]:
        def final(parameter: Tensor) -> None:
            self.ready[index] = perf_counter()

        return final

    def step(self) -> None:
        """Do a step, up to where ranks agree to go on, and take down its end."""
        self.training.step(next(self.batches))
        self.training.stop.agreed(self.training.comm)
        self.ends.append(perf_counter())

    def run(self, more: Callable[[], bool], after: Callable[[], None] = lambda: None) -> None:
        """Do steps as long as there are more to do, each with something after it."""
        training = self.training
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        with quiet, context.using(backend=training.parts.backend, ledger=training.record.ledger):
            while more():
                self.step()
                after()

    def warm(self) -> None:
        """Do steps until code is made, recorded and settled; the same number on all ranks."""
        self.run(lambda: len(self.ends) < WARM)
        last = self.ends[-1] - self.ends[-2]
        steps = np.array(min(WARM_SECONDS / max(last, 1e-6), 1000.0))
        self.training.comm.allreduce(steps, "max")
        self.run(lambda: len(self.ends) < WARM + int(steps))


def _images(shape: tuple[int, int, int], classes: int, batch: int) -> ImageDataset:
    """Return random images, those in colour under the name of a data set that is augmented."""
    size = batch * max(2, min(64, POOL // (batch * int(np.prod(shape)))))
    draw = np.random.default_rng(0)
    c, h, w = shape
    images = draw.integers(0, 256, (size, h, w, c), np.uint8).transpose(0, 3, 1, 2)
    names = tuple(map(str, range(max(classes, 1))))  # an autoencoder tells no classes apart
    labels = draw.integers(0, len(names), size)
    name = "cifar-like" if c == 3 else "random"
    return ImageDataset(name, "train", images, labels, names, (0.5,) * c, (0.25,) * c)
