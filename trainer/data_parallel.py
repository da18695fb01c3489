"""A training loop of the user's own on any number of ranks, with the sums of the trainer.

A step's batch is divided into micro-batches, which ranks share. A rank's loop runs once for each of
its own; `DistributedOptimizer` sums their gradients over all ranks in the fixed order of
`distributed.reproducible` and updates once a step, so results have the bits of `tallygrad train`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self, TypeVar, overload

import numpy as np

from ..autograd import Tensor, context, from_numpy, nn
from ..autograd.array import Array
from ..autograd.hooks import RemovableHandle
from ..autograd.nn.flat import FlatParameters
from ..autograd.optim import EMA, Lookahead, Optimizer, ParameterGroup
from ..autograd.optim.optimizer import StepHook
from ..autograd.optim.schedules import Schedule
from ..datasets import Loader
from ..datasets.sampler import Sampler, owned
from . import session
from .components.evaluate import evaluate as evaluate_batches
from .components.evaluate import make_eval_step
from .config import TrainConfig
from .distributed.agreement import agree, model_facts, work_facts
from .distributed.batch_statistics import RankStatistics, synchronised
from .distributed.buffers import MicroBatchBuffers
from .distributed.clipping import Clip
from .distributed.comm import Comm
from .distributed.exchange import Reducer
from .distributed.overlap import OverlapChoice, ways_to_drive
from .distributed.sync import GradientSync, share
from .errors import UserError
from .progress import Progress
from .setup import make_sync
from .sharded_loader import AnyLoader, MicroBatch, ShardedLoader, shard
from .tasks import registry
from .tasks.task import Task

M = TypeVar("M", bound=nn.Module)


class DistributedOptimizer:
    """An optimizer whose `step` ends a micro-batch: the last one of a step sums the gradients over
    all ranks and updates the weights. `optimizer` is the one it was made of, `steps` counts
    updates."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, micro_batches: range, parts: int, comm: Comm,
        clip_norm: float = 0.0, clip_value: float = 0.0,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.comm = model, optimizer, comm
        self.mine, self.parts = micro_batches, parts
        _arrange(model, optimizer)
        self.syncs = [
            self._sync(group.flat, comm if i == 0 else comm.stream(f"group {i}"))
            for i, group in enumerate(optimizer.groups)
        ]
        count = sum(p.size for p in optimizer.parameters)
        self.clip = Clip(clip_norm, clip_value, count, comm) if clip_norm or clip_value else None
        ways = ways_to_drive("auto", comm)
        self.overlaps = [OverlapChoice(sync.reducer, ways) for sync in self.syncs]
        self.buffers = MicroBatchBuffers(model, Reducer(comm, parts), micro_batches, parts)
        share([*_weights(model, optimizer), *[b.array for b in model.buffers()]], comm)
        self.buffers.load_state_dict({})
        self.loaders: list[ShardedLoader] = []
        self.together = bool(synchronised(model))
        if self.together:
            RankStatistics(Reducer(comm.stream("statistics"), parts)).join(synchronised(model))
        self.ended = 0  # micro-batches of this rank
        self._batch: MicroBatch | None = None  # under way
        self._has_swept = False

    def _sync(self, flat: FlatParameters, comm: Comm) -> GradientSync:
        sync, _ = make_sync(TrainConfig(), comm, flat, self.parts, len(self.mine))
        sync.exchanging = False  # only in the sweep of `backward`
        return sync

    @property
    def steps(self) -> int:
        """Updates so far: the same on all ranks, which micro-batches are not."""
        return self.optimizer.steps

    @property
    def groups(self) -> list[ParameterGroup]:
        """The groups of parameters, with their settings."""
        return self.optimizer.groups

    @property
    def param_groups(self) -> list[ParameterGroup]:
        """The same, by torch's name."""
        return self.optimizer.groups

    @property
    def lr(self) -> float | Schedule:
        """The learning rate of the first group, or its schedule; setting it sets all groups'."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        self.optimizer.lr = value

    @property
    def slots(self) -> tuple[str, ...]:
        """What the optimizer keeps for each element."""
        return self.optimizer.slots

    @property
    def rates(self) -> list[float]:
        """The learning rate of each group in the next step."""
        return self.optimizer.rates

    def backward(self, loss: Tensor) -> None:
        """Sweep back from the mean loss (0-d) over a micro-batch, weighted by its share of the
        batch. RuntimeError outside the loop over a sharded loader, and for a second sweep;
        ValueError for a loss with axes."""
        if self._batch is None or self._has_swept:
            raise RuntimeError(
                "backward: expected one call for each micro-batch, in a loop over a loader from "
                f"distribute() and with model.train(), got {'two' if self._batch else 'another'}"
            )
        if loss.shape:
            raise ValueError(
                "backward: expected the mean loss of the samples, one number, got a tensor of "
                f"shape {loss.shape}"
            )
        self._has_swept = True
        seed = np.asarray(len(self._batch.indices) / self._batch.total, loss.dtype)
        for sync in self.syncs:
            sync.exchanging = True
        try:
            loss.backward(from_numpy(seed))
        finally:
            for sync in self.syncs:
                sync.exchanging = False

    def step(self) -> None:
        """End a micro-batch, and after the last one of this rank the step. RuntimeError unless
        `backward` of this optimizer was called."""
        if not self._has_swept:
            raise RuntimeError("step: expected optimizer.backward(loss) before it, got none")
        self.end()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the micro-batch, which are None then."""
        self.optimizer.zero_grad()

    def register_step_post_hook(self, hook: StepHook) -> RemovableHandle:
        """Call `hook(optimizer, (), {})` after each update, on all ranks. It reads the means of the
        buffers over all micro-batches. Return a handle that removes it."""
        return self.optimizer.register_step_post_hook(lambda _, *rest: hook(self, *rest))

    def add(self, average: EMA | Lookahead) -> Self:
        """Begin an average of the weights; return self. ValueError where there is one of its
        kind."""
        self.optimizer.add(average)
        return self

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the moving average of the weights within a `with` block. ValueError
        where there is none."""
        with self.optimizer.averaged():
            yield

    def begin(self, index: int, batch: MicroBatch) -> None:
        """Begin a micro-batch, the `index`-th of this rank; called by the loader."""
        if index == 0:
            for overlap in self.overlaps:
                overlap.begin()
        journal = self.comm.journal
        journal.step, journal.activity = self.steps + 1, "training"
        self._batch, self._has_swept = batch, False
        self.buffers.use(index)

    def end(self) -> None:
        """End a micro-batch, which may have been empty."""
        self.ended += 1
        self._batch, self._has_swept = None, False
        if self.ended % max(len(self.mine), 1):
            for sync in self.syncs:
                sync.set_aside()
            return
        for sync in self.syncs:
            sync.wait()
        for overlap in self.overlaps:
            overlap.step()
        if self.clip:
            self.clip(self.optimizer)
        if self.optimizer.post_step_hooks:  # which may copy the model: alike on all ranks
            self.buffers.use_means()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check_place(self, expected: int = 0) -> None:
        """RuntimeError unless so many micro-batches of a step have ended."""
        done = self.ended % max(len(self.mine), 1)
        if done != expected:
            raise RuntimeError(
                f"loader: expected a step to be finished, got one with {done} of {len(self.mine)} "
                "micro-batches; leave a loop, or save, only after optimizer.steps grew"
            )

    @property
    def in_loop(self) -> bool:
        """Whether the body of a loop over a loader runs."""
        return self.optimizer.in_loop

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, which is the same on all ranks."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.optimizer.load_state_dict(state)


def _weights(model: nn.Module, optimizer: Optimizer) -> list[Array]:
    """Return the flat weights of an optimizer, and those of the model that it does not train."""
    trained = {id(p) for p in optimizer.parameters}
    others = [p.array for p in model.parameters() if id(p) not in trained]
    return [*[group.flat.data for group in optimizer.groups], *others]


def _arrange(model: nn.Module, optimizer: Optimizer) -> None:
    """Name the parameters of an optimizer as the model does, and lay those of a new one about in
    the order in which a sweep finishes them: exchanges begin then while the sweep still runs."""
    names = {id(p): n for p, n in zip(optimizer.parameters, optimizer.names, strict=True)}
    names |= {id(p): name for name, p in model.named_parameters()}
    if optimizer.steps == 0:
        optimizer.groups = [group.turned() for group in optimizer.groups]
    optimizer.names = [names[id(p)] for p in optimizer.parameters]


@overload
def distribute(
    model: M, optimizer: Optimizer, /,
    *, micro_batches: int = 0, clip_norm: float = 0.0, clip_value: float = 0.0,
) -> tuple[M, DistributedOptimizer]: ...  # fmt: skip
@overload
def distribute(
    model: M, optimizer: Optimizer, train: AnyLoader, /,
    *, micro_batches: int = 0, clip_norm: float = 0.0, clip_value: float = 0.0,
) -> tuple[M, DistributedOptimizer, ShardedLoader]: ...  # fmt: skip
@overload
def distribute(
    model: M, optimizer: Optimizer, train: AnyLoader, test: AnyLoader, /,
    *, micro_batches: int = 0, clip_norm: float = 0.0, clip_value: float = 0.0,
) -> tuple[M, DistributedOptimizer, ShardedLoader, ShardedLoader]: ...  # fmt: skip
def distribute(
    model: M, optimizer: Optimizer, /, *loaders: AnyLoader,
    micro_batches: int = 0, clip_norm: float = 0.0, clip_value: float = 0.0,
) -> tuple[Any, ...]:  # fmt: skip
    """Return a model, its optimizer and the loaders of its data for training on all ranks.

    All ranks get the weights of rank 0. A step's batch, of the loader's size, has so many
    micro-batches, 0 for one per rank and at least two: with the same number results have the same
    bits on any number of ranks. Before each update the gradient of the whole batch is clipped, its
    elements to `clip_value` and then its norm to `clip_norm`; 0 leaves it as it is.

    UserError where ranks differ in model or data, or where a batch has fewer samples than
    micro-batches; TypeError for other objects than these, ValueError for a negative limit."""
    _check(model, optimizer, loaders)
    if not (clip_norm >= 0 and clip_value >= 0):
        raise ValueError(
            "distribute: expected clip_norm and clip_value of at least 0, got "
            f"{clip_norm} and {clip_value}"
        )
    comm = session.comm()
    parts = TrainConfig(micro_batches=micro_batches).micro_batches_on(comm.size)
    if synchronised(model):
        parts = micro_batches or comm.size
        if parts != comm.size:
            raise UserError(
                f"distribute: expected a micro-batch per rank, {comm.size}, for SyncBatchNorm "
                f"layers, got {parts}"
            )
    sharded = [shard(loader, comm, parts) for loader in loaders]
    for one in sharded[:1]:  # others may only evaluate
        one.check_trainable()
    agree(comm, lambda: {**model_facts(model), **_loader_facts(sharded)})
    mine = range(*owned(parts, comm.rank, comm.size))
    made = DistributedOptimizer(model, optimizer, mine, parts, comm, clip_norm, clip_value)
    made.loaders = sharded
    for one in sharded:
        one.optimizers.append(made)
    return (model, made, *sharded)


def _check(model: object, optimizer: object, loaders: Sequence[object]) -> None:
    """TypeError where something else stands in the place of a model, an optimizer or a loader."""
    fits = {
        "a Module": (model, isinstance(model, nn.Module)),
        "an Optimizer": (optimizer, isinstance(optimizer, Optimizer)),
    }
    for i, one in enumerate(loaders):
        is_ours = isinstance(one, ShardedLoader) or isinstance(
            getattr(one, "sampler", None), Sampler
        )
        fits[f"loader {i} to be a DataLoader, Loader or IndexLoader"] = one, is_ours
    for what, (given, is_one) in fits.items():
        if not is_one:
            raise TypeError(
                f"distribute: expected {what} of tallygrad, got {type(given).__name__}; the order "
                "is model, optimizer, loaders"
            )


def _loader_facts(loaders: Sequence[ShardedLoader]) -> dict[str, object]:
    """Return what computes and what tells data and batches from others."""
    sources = [one.loader.dataset for one in loaders if isinstance(one.loader, Loader)]
    batches = [replace(one.loader.sampler, rank=0) for one in loaders]
    facts = work_facts(context.current().backend, *sources)
    return facts | {f"batches of loader {i}": batch for i, batch in enumerate(batches)}


def evaluate(
    model: nn.Module, data: ShardedLoader, task: Task | str = "classification"
) -> dict[str, float]:
    """Return loss and metrics of a task, such as accuracy, over the samples of a sharded loader:
    the same bits on any number of ranks. All ranks must call it. The model is in evaluation mode
    meanwhile."""
    if not isinstance(data, ShardedLoader) or not isinstance(data.loader, Loader):
        own = isinstance(data, ShardedLoader)
        got = f"that of {type(data.loader).__name__}" if own else type(data).__name__
        raise TypeError(f"evaluate: expected what distribute() makes of a Loader, got {got}")
    task = registry.create(task) if isinstance(task, str) else task
    for optimizer in data.optimizers:
        optimizer.buffers.use_means()
    was = model.training
    try:
        quiet = Progress(len(data), 0, False)
        step = make_eval_step(model, task)
        loss, *sums, samples = evaluate_batches(step, task, data.loader, session.comm(), quiet)
    finally:
        model.train(was)
    names = ("loss", *(metric.name for metric in task.metrics))
    return {name: value / samples for name, value in zip(names, (loss, *sums), strict=True)}
