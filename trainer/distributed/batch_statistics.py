"""Batch norm over the whole batch of a step: statistics summed over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from ...autograd import context, grad
from ...autograd.array import NDArray, Spec, array
from ...autograd.ledger import Cost
from ...autograd.nn.flat import FlatParameters
from ...autograd.nn.module import Module
from ...autograd.nn.norm import BatchNorm, SyncBatchNorm
from ...autograd.ops.update import accumulate, store
from ...autograd.primitive import Value, primitive
from ...autograd.tensor import Parameter, Tensor
from ...datasets.sampler import Sampler
from ..errors import UserError
from .exchange import Reducer
from .lockstep import LockStep
from .reproducible import fold
from .sync import GradientSync, allreduce

R = TypeVar("R")


class Summand(NamedTuple):
    """What a micro-batch adds to a sum, and the layer that it is for."""

    numbers: NDArray
    layer: str


class Meeting(Protocol):
    """Where what micro-batches bring is added up."""

    def meet(self, value: Summand) -> Summand:
        """Bring a summand; return the sum."""


def _copying(y: Spec, x: Spec, *, through: Meeting) -> Cost:
    """Cost of handing x over; additions and messages count where they are done."""
    return Cost(bytes_read=x.nbytes, bytes_written=y.nbytes)


@primitive(infer=lambda x, *, through: x, cost=_copying)
def batch_sum(x: NDArray, *, through: Meeting) -> NDArray:
    """Return the sum of x over all micro-batches of the step, added along the fixed tree."""
    return through.meet(Summand(x.copy(), context.current().scope)).numbers.copy()


@batch_sum.vjp("x")
def _(dy: Value, through: Meeting) -> Value:
    # The x of each micro-batch reaches the loss of every other.
    with context.using(phase="communicate"):
        return batch_sum(dy, through=through)


class SharedStatistics:
    """Runs the micro-batches of a step side by side, with batch norms that normalise by the
    statistics of all of them, on all ranks. The reducer must have a stream of its own: its sums
    come between those of gradients."""

    def __init__(self, model: Module, flat: FlatParameters, reducer: Reducer) -> None:
        self._flat = flat
        self._layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
        self._together = LockStep(partial(_added, reducer=reducer))
        self._running = 0  # the micro-batch that goes on
        self._gradients: list[list[tuple[Parameter, Tensor | None]]] = []

    def run(
        self, jobs: Sequence[Callable[[], R]], sync: GradientSync, use: Callable[[int], None]
    ) -> list[R]:
        """Return the results of jobs, one for each of this rank's micro-batches, and leave their
        gradients to `sync` as if one had run after the other. A job sweeps by `sweep`; `use` is
        called with the number of the one that goes on. All ranks must call this."""

        def before(number: int) -> None:
            self._running = number
            use(number)

        self._gradients = [[] for _ in jobs]
        for layer in self._layers:
            layer.total = partial(_summed, through=self._together)
        try:
            results = self._together.run(jobs, before)
        finally:
            for layer in self._layers:
                layer.total = None
        self._deliver(sync)
        return results

    def sweep(self, loss: Tensor, share: Tensor) -> None:
        """Sweep back from the loss of a micro-batch; the gradients are kept apart from those of the
        others, which have not ended."""
        trained = [p for p in self._flat.parameters if p.requires_grad]
        found = grad(loss, trained, share, allow_unused=True)
        self._gradients[self._running] = [*zip(trained, found, strict=True)]

    def _deliver(self, sync: GradientSync) -> None:
        for number, gradients in enumerate(self._gradients):
            if number:
                sync.set_aside()
            for p, gradient in gradients:
                if gradient is None or p.slot is None:
                    continue
                with context.using(phase="backward_weights", scope="gradients", tape=None):
                    store(p.slot, gradient.array)
                p.grad = Tensor(p.slot)
                p.announce()
        self._gradients = []


def _summed(x: Tensor, through: Meeting) -> Tensor:
    y: Tensor
    with context.using(phase="communicate"):
        y = batch_sum(x, through=through)
    return y


def _added(summands: Sequence[Summand], reducer: Reducer) -> Summand:
    """Add up what this rank's micro-batches brought, and then over the ranks."""
    layer = summands[0].layer
    with context.using(phase="communicate", scope=layer, tape=None):
        whole = fold([array(s.numbers) for s in summands], accumulate)
        allreduce(whole, through=reducer)
        reducer.wait()
    return Summand(whole.value, layer)


class RankStatistics:
    """Adds what the only micro-batch of each rank brings over the ranks, for the `SyncBatchNorm`
    layers of a loop of the user's. The reducer must have a stream of its own."""

    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer

    def meet(self, value: Summand) -> Summand:
        """Return the sum over the ranks."""
        return _added([value], self._reducer)

    def join(self, layers: Sequence[SyncBatchNorm]) -> None:
        """Let layers normalise by the statistics of all ranks."""
        for layer in layers:
            layer.total = partial(_summed, through=self)


def synchronised(model: Module) -> list[SyncBatchNorm]:
    """Return the layers of a model that normalise by the statistics of the whole batch."""
    return [m for m in model.modules() if isinstance(m, SyncBatchNorm)]


def check_together(model: Module, name: str, sampler: Sampler) -> None:
    """Raise UserError unless a model, by name, has batch norm and all ranks and micro-batches can
    come to its layers together in every step."""
    size, parts, rest = sampler.size, sampler.parts, sampler.rest
    if not any(isinstance(m, BatchNorm) for m in model.modules()):
        raise UserError(
            f"--sync-batch-norm: expected a model with batch norm, got {name}; leave the option out"
        )
    if parts < size:
        raise UserError(
            f"--micro-batches: expected at least {size}, one per rank, with --sync-batch-norm, got "
            f"{parts}; use more of them, a larger --batch-size or fewer ranks"
        )
    if 0 < rest < parts:
        raise UserError(
            f"--batch-size: expected a last batch of at least {parts} samples, one per "
            f"micro-batch, with --sync-batch-norm, got {rest}; change it by one"
        )
