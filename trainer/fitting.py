"""The loop of `tallygrad train` for a script: `fit` and its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from os import devnull
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..autograd import context, models, nn
from ..datasets import Source
from ..datasets.source import OF_SOURCE
from . import build, config, session
from .components.logs import RunFolder
from .components.resume import occupy
from .config import TrainConfig
from .distributed.comm import Comm
from .errors import nearest
from .loop import Training
from .setup import MakeOptimizer, Recipe
from .tasks import registry
from .tasks.task import Task

Callback: TypeAlias = Callable[[Mapping[str, Any]], object]
MakeModel: TypeAlias = Callable[..., nn.Module]


@dataclass
class History:
    """What a training came to: the figures of each epoch, as in metrics.csv, and the `result`, as
    in result.json. `history["test_accuracy"]` are those of all epochs."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> list[Any]:
        return [epoch[name] for epoch in self.epochs]

    def take(self, event: Mapping[str, Any]) -> None:
        """Keep the figures of an epoch."""
        if event["event"] == "epoch":
            self.epochs.append({name: value for name, value in event.items() if name != "event"})


def fit(
    model: nn.Module | MakeModel, train: Source, test: Source, *, validation: Source | None = None,
    task: Task | str = "classification", optimizer: MakeOptimizer | str = "sgd",
    callbacks: Sequence[Callback] = (), **options: Any,
) -> History:  # fmt: skip
    """Train a model on all ranks as `tallygrad train` does, and return the history.

    `model` is a Module, or a class or function that makes one of `input_shape` and `classes`, with
    weights from the option `seed`. `options` are those of the command, with `_` for `-`, such as
    epochs=3 and batch_size=128; with `out` the run has a folder, else no file is written. An
    `optimizer` is a name, or a function of model, flat parameters and the steps of all epochs. On
    every rank, `callbacks` get each event of the log, as a mapping; one that returns True for an
    "epoch" ends the training there. UserError for options that do not fit, TypeError for unknown
    ones and for what is no model or data set."""
    _check(model, {"train": train, "test": test, "validation": validation}, options)
    comm, history = session.comm(), History()
    names = {
        "model": type(model).__name__ if isinstance(model, nn.Module) else model.__name__,
        "dataset": train.name,
        **{name: value for name, value in (("task", task), ("optimizer", optimizer))
           if isinstance(value, str)},
    }  # fmt: skip
    chosen = config.gather(None, {**names, **options})
    with context.using(backend="numpy"), _run(chosen, comm) as (settings, source, folder):
        training = Training(
            settings, comm, folder, source, build.loaders(settings, comm, train, test, validation),
            recipe=_recipe(settings, model, task, optimizer), listeners=[history.take, *callbacks],
        )  # fmt: skip
        history.result = training.run()
    return history


def _check(model: object, data: Mapping[str, object], options: Iterable[str]) -> None:
    """TypeError for what is no model or data set, and for an unknown option, with the nearest."""
    wanted = {"model": (model, callable(model), "a Module, or a class or function that makes one")}
    for name, one in data.items():
        fits = one is None or all(hasattr(one, attribute) for attribute in OF_SOURCE)
        wanted[name] = one, fits, "a data set, such as datasets.load() returns"
    for name, (one, fits, what) in wanted.items():
        if not fits:
            raise TypeError(f"fit: {name}: expected {what}, got {type(one).__name__}")
    known = [item.name for item in fields(TrainConfig)]
    for name in options:
        if name not in known:
            raise TypeError(f"fit: unknown option {name!r}{nearest(name, known)}")


@contextmanager
def _run(
    chosen: Mapping[str, Any], comm: Comm
) -> Iterator[tuple[TrainConfig, Path | None, RunFolder]]:
    """Yield the options, the checkpoint to go on from and the folder of a run, which may be one
    without files."""
    if chosen.get("out") or chosen.get("resume"):
        with occupy(chosen, comm) as run:
            yield run
    else:
        yield TrainConfig(**chosen), None, RunFolder(Path(devnull), writes=False)


def _recipe(
    settings: TrainConfig, model: nn.Module | MakeModel, task: Task | str,
    optimizer: MakeOptimizer | str,
) -> Recipe:  # fmt: skip
    def make_model(data: Source) -> nn.Module:
        dtype = np.dtype(settings.dtype)
        if isinstance(model, nn.Module):
            return model.astype(dtype)
        name = f"script:{settings.model}"  # no other model's
        models.register(name, listed=False)(model)
        return build.create_model(name, data, dtype, settings.seed)

    own = registry.create(task, settings.to_json()) if isinstance(task, str) else task
    named = partial(build.create_optimizer, settings, own)
    return Recipe(
        own,
        make_model,
        named if isinstance(optimizer, str) else optimizer,
    )
