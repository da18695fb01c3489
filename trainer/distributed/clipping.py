"""Clipping of the gradient before an update, with the same bits on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

from ...autograd import context
from ...autograd.array import Array, NDArray, Spec
from ...autograd.ledger import Cost
from ...autograd.narrow_copy import SCOPE
from ...autograd.nn.utils.clipping import largest, square_sums
from ...autograd.ops import clipping
from ...autograd.optim import Optimizer
from ...autograd.primitive import primitive
from ..cost.cluster.allreduce import ring_volume
from .comm import Comm


def _cost(y: None, x: Spec, *, through: Comm, op: str) -> Cost:
    """Cost of a ring allreduce for one rank (Patarasuk and Yuan 2009)."""
    moved = int(ring_volume(x.nbytes, through.size))
    return Cost(
        bytes_read=moved, bytes_written=moved, bytes_sent=moved, messages=2 * (through.size - 1)
    )


@primitive(infer=lambda x, *, through, op: (), cost=_cost, writes=(0,), alias=0)
def combine(x: NDArray, *, through: Comm, op: str) -> None:
    """Overwrite x with the sum or the maximum over the ranks, which must not depend on an order."""
    through.allreduce(x, op)


class Clip:
    """Clips the gradients that an optimizer is about to use: first each of the `count` elements to
    `value`, then all to `norm`; 0 for either leaves it out. With `shards`, each rank has others."""

    def __init__(
        self, norm: float, value: float, count: int, comm: Comm, shards: bool = False
    ) -> None:
        self.norm, self.value, self.count = norm, value, count
        self.comm, self.shards = comm, shards

    def __call__(self, optimizer: Optimizer) -> None:
        """Change the gradients in place. With shards, all ranks must call it."""
        with context.using(phase="update", scope=SCOPE, tape=None):
            for group in optimizer.groups:
                group.flat.zero_missing()
            gradients = [group.flat.grad for group in optimizer.groups]
            for g in gradients if self.value else ():
                clipping.clip_to_value(g, most=self.value)
            if self.norm:
                norm = self._norm(gradients)
                for g in gradients:
                    clipping.clip_to_norm(g, norm, most=self.norm)

    def _norm(self, gradients: Sequence[Array]) -> Array:
        most = self._combined(largest(gradients), "max")
        sums = self._combined(square_sums(gradients, most, self.count), "sum")
        norm: Array = clipping.norm_of(sums)
        return norm

    def _combined(self, x: Array, op: str) -> Array:
        if self.shards:
            combine(x, through=self.comm, op=op)
        return x
