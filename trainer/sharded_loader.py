"""A loader's steps in micro-batches, for the ranks of a training loop of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..autograd import is_grad_enabled
from ..autograd.random import keyed
from ..datasets.drawing import Listed
from ..datasets.sampler import Sampler
from ..datasets.source import Ids
from .distributed.comm import Comm
from .errors import UserError

if TYPE_CHECKING:
    from .data_parallel import DistributedOptimizer


class MicroBatch(Protocol):
    """Samples `indices` (n,) of a step that has `total` on all ranks; n may be 0."""

    @property
    def indices(self) -> Ids:
        """Numbers of the samples."""

    @property
    def total(self) -> int:
        """Samples of the step, on all ranks."""

    @property
    def values(self) -> Any:
        """What the loop gets."""


class Batches(Protocol):
    """A loader: `DataLoader`, `Loader` or `IndexLoader`."""

    dataset: Any
    sampler: Sampler

    def __len__(self) -> int:
        """Return the steps of an epoch."""

    def micro_batches(self, epoch: int, start: int = 0) -> Iterator[Sequence[MicroBatch]]:
        """Return the micro-batches of each step of an epoch from a step on."""


AnyLoader: TypeAlias = "Batches | ShardedLoader"


class ShardedLoader:
    """Yields this rank's micro-batches of each step: of a `DataLoader` what that yields, else a
    `Batch` each.

    While gradients are recorded and a model trains, the loop over it is a training: every
    micro-batch ends with `optimizer.step()`. Otherwise, as with `model.eval()`, it is an
    evaluation, for which models read the means of their batch statistics."""

    def __init__(self, loader: Batches) -> None:
        self.loader = loader
        self.optimizers: list[DistributedOptimizer] = []
        self.next_epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def dataset(self) -> Any:
        """The data set, with the samples of all ranks."""
        return self.loader.dataset

    @property
    def batch_size(self) -> int:
        """Samples of a step, on all ranks together."""
        return self.loader.sampler.batch_size

    def __iter__(self) -> Iterator[Any]:
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the micro-batches of an epoch from a step on."""
        training = is_grad_enabled() and any(o.model.training for o in self.optimizers)
        if not training:
            for optimizer in self.optimizers:
                optimizer.buffers.use_means()
        return self._run(epoch, start, training)

    def _run(self, epoch: int, start: int, training: bool) -> Iterator[Any]:
        if training:
            self.check_trainable()
        for parts in self.loader.micro_batches(epoch, start):
            if not training:
                yield from (part.values for part in parts if len(part.indices))
                continue
            for index, part in enumerate(parts):
                yield from self._train(index, part)
            if not parts:  # more ranks than micro-batches: this one only takes part in the sums
                for optimizer in self.optimizers:
                    optimizer.end()

    def check_trainable(self) -> None:
        """UserError for a batch with fewer samples than micro-batches, and where a rank would have
        none of a step for which others wait."""
        sampler = self.loader.sampler
        if sampler.parts < sampler.micro_batches:
            raise UserError(
                f"distribute: expected batches of at least {sampler.micro_batches} samples, one a "
                f"micro-batch, got {sampler.batch_size}"
            )
        rest, together = sampler.rest, any(optimizer.together for optimizer in self.optimizers)
        if together and 0 < rest < sampler.parts:
            raise UserError(
                f"SyncBatchNorm: expected a last batch of at least {sampler.parts} samples, one "
                f"per rank, got {rest}; change the batch size by one"
            )

    def _in_loop(self, now: bool) -> None:
        for optimizer in self.optimizers:
            optimizer.optimizer.in_loop = now

    def _train(self, index: int, part: MicroBatch) -> Iterator[Any]:
        """Yield a micro-batch, unless it is empty, and see that it was trained on."""
        before = [optimizer.ended for optimizer in self.optimizers]
        if not len(part.indices):
            for optimizer in self.optimizers:
                optimizer.end()
            return
        values = part.values
        for optimizer in self.optimizers:
            optimizer.check_place(index)
            optimizer.begin(index, part)
        with keyed(part.indices, self.loader.sampler.seed, self.optimizers[0].steps):
            self._in_loop(True)
            try:
                yield values
            finally:
                self._in_loop(False)
        if [optimizer.ended - 1 for optimizer in self.optimizers] != before:
            raise RuntimeError(
                "loader: expected optimizer.step() once for each micro-batch; to evaluate, call "
                "model.eval() first"
            )


def shard(loader: AnyLoader, comm: Comm, parts: int) -> ShardedLoader:
    """Return a loader whose steps so many micro-batches have, which the ranks share. UserError
    for an order that other ranks would not know."""
    if isinstance(loader, ShardedLoader):
        return loader
    if isinstance(loader.sampler.draws, Listed):
        raise UserError(
            "distribute: expected shuffle=True or a sampler of tallygrad.datasets, whose order all "
            f"ranks know, got {loader.sampler.draws}"
        )
    own = copy(loader)
    own.sampler = replace(loader.sampler, rank=comm.rank, size=comm.size, micro_batches=parts)
    return ShardedLoader(own)
