"""From options to data, model and optimizer; what is wrong with an option is said here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import datasets
from ..autograd import backends, cross_entropy, manual_seed, models, nn, zeros
from ..autograd.nn.flat import Flat, finish_order, flatten
from ..autograd.optim import SGD, schedules
from ..autograd.tensor import Tensor
from ..datasets import Dataset, Loader
from .config import TrainConfig
from .distributed.comm import Comm
from .errors import UserError


@dataclass(frozen=True)
class Data:
    """Loaders of both splits; each rank's holds its share."""

    train: Loader
    test: Loader


def choose_backend(comm: Comm, wanted: str, target: str = "host", conv: str = "auto") -> str:
    """Return the name of the backend that the options ask for; for `auto` llvm, or NumPy with a
    line that says why it does not load. UserError for one that does not load, and for a target that
    this machine does not execute."""
    if wanted == "numpy":
        return wanted
    name = f"llvm:{conv}" + ("" if target == "host" else f",{target}")
    try:
        backends.get(name)
        return name
    except ImportError as error:
        if wanted == "llvm":
            raise UserError(f"--backend llvm: {error} (pip install 'tallygrad[llvm]')") from error
        if comm.rank == 0:
            print(f"tallygrad: NumPy computes: {error} (pip install 'tallygrad[llvm]')",
                  file=sys.stderr, flush=True)  # fmt: skip
    except ValueError as error:
        if target != "host" or wanted == "llvm":
            raise UserError(f"--backend llvm: {error}") from error
        if comm.rank == 0:
            print(f"tallygrad: NumPy computes: {error}", file=sys.stderr, flush=True)
    return "numpy"


def load_split(name: str, split: str, data_dir: str, comm: Comm) -> Dataset:
    """Load a data set, rank 0 first: it fetches or draws what the others then find."""
    shows = comm.rank == 0
    found = datasets.load(name, split, data_dir or None, progress=shows) if shows else None
    comm.barrier()
    return found or datasets.load(name, split, data_dir or None, progress=False)


def load_data(config: TrainConfig, comm: Comm) -> Data:
    """Return the loaders that the options ask for."""
    train, test = (
        load_split(config.dataset, split, config.data_dir, comm) for split in ("train", "test")
    )
    augment = datasets.standard(config.dataset) if config.augment != "none" else ()
    if config.augment == "cutout":
        augment = (*augment, datasets.Cutout(max(train.input_shape[2] // 2, 1)))
    dtype = np.dtype(config.dtype)
    shared: dict[str, Any] = {"rank": comm.rank, "size": comm.size, "dtype": dtype}
    shared["micro_batches"] = config.micro_batches
    return Data(
        Loader(train, config.batch_size, seed=config.seed, augment=augment, **shared),
        test_loader(test, config.eval_batch_size or config.batch_size, **shared),
    )


def test_loader(
    data: Dataset, batch_size: int, *, size: int, micro_batches: int, **shared: Any
) -> Loader:
    """Return a loader in natural order, without augmentation; a batch is at least one sample a
    micro-batch and a rank, and at most the data set."""
    fitting = min(max(batch_size, micro_batches, size), len(data))
    shared |= {"size": size, "micro_batches": micro_batches}
    return Loader(data, fitting, shuffle=False, **shared)


def create_model(name: str, data: Dataset, dtype: Any, seed: int = 0) -> nn.Module:
    """Return a model for a data set's images and classes, its weights drawn from the seed."""
    manual_seed(seed)
    try:
        model = models.create(name, input_shape=data.input_shape, classes=len(data.classes))
    except ValueError as error:
        raise UserError(f"--model: {error}") from error
    return model.astype(dtype)


def gather(model: nn.Module, data: Dataset, dtype: Any) -> Flat:
    """Move the parameters into one buffer, in the order in which a sweep finishes them, which a
    step on the meta backend tells."""

    def run() -> Tensor:
        x = zeros(2, *data.input_shape, dtype=dtype)
        return cross_entropy(model(x), zeros(2, dtype=np.int64))

    model.train()
    return flatten(finish_order(run, list(model.parameters())))


def create_optimizer(config: TrainConfig, model: nn.Module, flat: Flat, steps: int) -> SGD:
    """Return the optimizer and its schedule over `steps` steps."""
    if config.warmup_steps >= steps:
        raise UserError(f"--warmup-steps {config.warmup_steps}: the epochs have {steps} steps")
    if config.nesterov and not config.momentum:
        raise UserError(f"--nesterov: needs a --momentum above 0, not {config.momentum}")
    settings: dict[str, Any] = {}
    if config.schedule == "step":
        settings["milestones"] = (steps // 2, steps * 3 // 4)
    schedule = schedules.by_name(
        config.schedule, config.lr, steps, config.warmup_steps, **settings
    )
    try:
        return SGD(
            flat,
            schedule,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            named_parameters=model.named_parameters(),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def run_folder(config: TrainConfig, stamp: str) -> Path:
    """Return the run folder's path, `stamp` telling apart runs without a name."""
    return Path(config.out or f"runs/{config.model}-{config.dataset}-{stamp}")
