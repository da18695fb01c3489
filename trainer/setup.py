"""What a training is put together from: data, backend, model, optimizer, exchange of gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from ..autograd import nn, optim
from ..autograd.nn.flat import FlatParameters
from ..autograd.optim import Optimizer
from ..datasets import Sampler, Source
from . import build, combinations, user_code
from .components.plateaus import Plateaus
from .config import TrainConfig
from .cost.cluster.compression import parse_compress
from .distributed.agreement import agree, model_facts, work_facts
from .distributed.batch_statistics import SharedStatistics, check_together, synchronised
from .distributed.buffers import MicroBatchBuffers
from .distributed.clipping import Clip
from .distributed.comm import Comm
from .distributed.exchange import Reducer
from .distributed.hierarchy import Choice, form
from .distributed.local import LocalUpdate, OuterStep, Workers
from .distributed.overlap import OverlapChoice, ways_to_drive
from .distributed.sync import GradientSync
from .distributed.update import ShardedUpdate, Update, cut
from .errors import UserError
from .own_models import registered
from .tasks import registry
from .tasks.task import Task
from .values import parse_size

MakeModel: TypeAlias = Callable[[Source], nn.Module]
MakeOptimizer: TypeAlias = Callable[[nn.Module, FlatParameters, int], Optimizer]


@dataclass(frozen=True)
class Recipe:
    """What decides what is trained and how: the task, the model for a data set, and the optimizer
    for a model, its flat parameters and the steps of all epochs."""

    task: Task
    model: MakeModel
    optimizer: MakeOptimizer

    @classmethod
    def of(cls, config: TrainConfig) -> Recipe:
        """Return what the options ask for. UserError for options of task and optimizer that do not
        fit."""

        name = registered(config.model, config.model_args)

        def model(data: Source) -> nn.Module:
            return build.create_model(name, data, np.dtype(config.dtype), config.seed)

        task = registry.create(config.task, config.to_json())
        build.optimizer_settings(config)  # refuses what does not fit before data are loaded
        return cls(task, model, partial(build.create_optimizer, config, task))


@dataclass(frozen=True)
class Parts:
    """The parts of a training on this rank. `names` are those of the flat parameters, `planned`
    counts the steps of all epochs."""

    data: build.Data
    task: Task
    backend: str
    model: nn.Module
    flat: FlatParameters
    names: list[str]
    update: Update
    plateaus: Plateaus
    reducer: Reducer
    sync: GradientSync
    buffers: MicroBatchBuffers
    statistics: SharedStatistics | None
    overlap: OverlapChoice
    hierarchy: Choice
    planned: int

    @property
    def local(self) -> LocalUpdate | None:
        """The update of workers that train alone, if they do."""
        return self.update if isinstance(self.update, LocalUpdate) else None


def _check_types(config: TrainConfig) -> None:
    build.mixed(config.precision)  # a UserError where it is not to be had
    if config.precision != "float32" and config.dtype != "float32":
        raise UserError(
            f"--dtype: expected float32 with --precision {config.precision}, got {config.dtype}"
        )


def assemble(
    config: TrainConfig, comm: Comm, data: build.Data | None = None, recipe: Recipe | None = None
) -> Parts:
    """Return the parts of a training, on every rank the same but for its share of the data. `data`
    and `recipe` stand in for what the options name."""
    combinations.check(config)
    _check_types(config)
    recipe = recipe or Recipe.of(config)
    _check_frozen(recipe.task)
    data = data or build.load_data(config, comm)
    backend = build.choose_backend(comm, config.backend, config.target, config.conv, config.tune)
    splits = [x.dataset for x in (data.train, data.validation, data.test) if x]
    agree(comm, lambda: user_code.facts() | work_facts(backend, *splits))
    build.limit_memory(backend, parse_size(config.memory_limit))
    model = recipe.model(data.train.dataset)
    build.prepare(model, data.train)
    agree(comm, lambda: model_facts(model))
    flat = build.flatten_parameters(model, recipe.task, data.train.dataset, config.dtype)
    planned = config.epochs * len(data.train)
    if config.sync_batch_norm:
        check_together(model, config.model, data.train.sampler)
    elif synchronised(model):
        raise UserError(
            f"--sync-batch-norm: expected it with the SyncBatchNorm layers of {config.model}, got "
            "none; add it"
        )
    by_id = {id(p): name for name, p in model.named_parameters()}
    names = [by_id[id(p)] for p in flat.parameters]
    sampler = data.train.sampler
    reducer = Reducer(comm, sampler.parts)
    sync, hierarchy = make_sync(config, comm, flat, sampler.parts, len(sampler.mine))
    make = partial(recipe.optimizer, model, flat, planned)
    update = _update(config, make, sync, names, sampler)
    held_out = data.validation.dataset.split if data.validation else None
    return Parts(
        data=data,
        task=recipe.task,
        backend=backend,
        model=model,
        flat=flat,
        names=names,
        update=update,
        plateaus=Plateaus(update, config.plateau_metric or build.LOSS, held_out),
        reducer=reducer,
        sync=sync,
        buffers=MicroBatchBuffers(model, reducer, sampler.mine, sampler.parts),
        statistics=SharedStatistics(model, flat, Reducer(comm.stream("statistics"), sampler.parts))
        if config.sync_batch_norm
        else None,
        overlap=OverlapChoice(sync.reducer, ways_to_drive(config.overlap, comm)),
        hierarchy=hierarchy,
        planned=planned,
    )


def make_sync(
    config: TrainConfig, comm: Comm, flat: FlatParameters, parts: int, mine: int
) -> tuple[GradientSync, Choice]:
    """Return how the gradients of `parts` micro-batches, so many of them of this rank, are summed
    over the ranks, and whether within nodes first."""
    unfit = combinations.obstacle(config, "hierarchical")
    hierarchy = form(config.hierarchical, comm, flat, parts, unfit)
    scatters = config.shard_optimizer and optim.is_elementwise(config.optimizer)
    reducer = Reducer(comm, parts, scatters=scatters, nodes=hierarchy.nodes)
    sync = GradientSync(
        flat, reducer, int(config.bucket_mb * 1e6), mine,
        hooked=config.local_steps == 0, compress=parse_compress(config.compress),
    )  # fmt: skip
    return sync, hierarchy


def _update(
    config: TrainConfig, make: Callable[[], Optimizer], sync: GradientSync, names: list[str],
    sampler: Sampler,
) -> Update:  # fmt: skip
    """Return how weights are updated: all of them, this rank's share, or those of its workers."""
    flat, reducer, clip = sync.flat, sync.reducer, None
    if config.clip_norm or config.clip_value:
        count = flat.data.spec.size
        clip = Clip(
            config.clip_norm, config.clip_value, count, reducer.comm, config.shard_optimizer
        )
    if config.local_steps:
        outer = OuterStep(config.outer_lr, config.outer_momentum)
        workers = Workers(sampler.mine, sampler.parts)
        optimizers = [make() for _ in workers.mine or [0]]
        return LocalUpdate(optimizers, flat, names, workers, reducer, outer, clip)
    if config.shard_optimizer:
        cut(sync, reducer.comm)
        return ShardedUpdate(make(), sync, reducer.comm, names, clip)
    return Update(make(), reducer.comm, clip)


def _check_frozen(task: Task) -> None:
    """TypeError for a task that could change. Captured steps do not look at its attributes again: a
    change would be without effect, or with one only where a step is captured anew."""
    parameters = vars(type(task)).get("__dataclass_params__")  # of itself: no base's
    if parameters is None or not parameters.frozen:
        raise TypeError(f"task: expected a frozen dataclass, got {type(task).__name__}")
