"""What each micro-batch has of its own: the running statistics of batch norm, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...autograd import context
from ...autograd.array import Array, NDArray, array
from ...autograd.dtypes import is_floating
from ...autograd.functional.create import zeros
from ...autograd.ledger import Ledger
from ...autograd.nn.module import Module
from ...autograd.ops.reduce import scale
from ...autograd.ops.update import accumulate, store
from .exchange import Reducer, gather_rows
from .reproducible import fold
from .sync import allreduce


class MicroBatchBuffers:
    """The buffers of a model that each micro-batch changes by itself, such as the running
    statistics of batch norm.

    There is a copy for each of the `mine` micro-batches of this rank, out of `parts`, so that no
    value depends on how many ranks share them. Evaluation and the model's part of a checkpoint use
    their mean, but of integers the first micro-batch's; training continues with the copies."""

    def __init__(self, model: Module, reducer: Reducer, mine: range, parts: int) -> None:
        self.reducer, self.mine, self.parts = reducer, mine, parts
        named = dict(model.named_buffers())
        self.names, self.buffers = [*named], [*named.values()]
        self.copies = [[b.array for b in self.buffers]]
        self.apart = parts > 1 or reducer.comm.size > 1
        if self.apart:
            self.copies = [self._blank() for _ in mine or [0]]
        self.means = self._blank() if self.apart else self.copies[0]

    def _blank(self) -> list[Array]:
        return [zeros(b.shape, dtype=b.dtype).array for b in self.buffers]

    def spread(self) -> None:
        """Begin all copies with what the model's buffers hold."""
        with context.using(ledger=Ledger(), tape=None):
            for copies in self.copies:
                for copy, b in zip(copies, self.buffers, strict=True):
                    if copy is not b.array:
                        store(copy, b.array)

    def use(self, part: int) -> None:
        """Let the model read and write the copies of this rank's `part`-th micro-batch."""
        self._use(self.copies[part])

    def use_means(self) -> None:
        """Let the model read the means over the micro-batches of all ranks, and of integers what
        the first one has."""
        if not self.apart:
            return
        averaged = []
        with context.using(phase="communicate", scope="buffers", tape=None):
            for mean, copies in zip(self.means, zip(*self.copies, strict=True), strict=True):
                if not is_floating(mean.dtype):
                    store(mean, copies[0])
                    self.reducer.comm.bcast(mean.value)  # rank 0 has the first micro-batch
                    continue
                averaged.append(mean)
                sums = [mean]
                sums += [zeros(c.spec.shape, dtype=c.spec.dtype).array for c in copies[1:]]
                # `fold` overwrites what it adds: it gets copies of the copies.
                for slot, copy in zip(sums, copies, strict=True):
                    store(slot, copy)
                allreduce(fold(sums, accumulate), through=self.reducer)
            self.reducer.wait()
            for mean in averaged:
                store(mean, scale(mean, factor=1.0 / self.parts))
        self._use(self.means)

    def _use(self, arrays: list[Array]) -> None:
        for buffer, copy in zip(self.buffers, arrays, strict=True):
            buffer.rebind(copy)

    def state_dict(self) -> dict[str, NDArray]:
        """Return the copies of all micro-batches by name, (parts, ..), on rank 0; elsewhere, and
        with a single micro-batch, nothing. All ranks must call it."""
        state = {}
        for i, name in enumerate(self.names if self.parts > 1 else ()):
            mine = np.stack([copies[i].value for copies in self.copies])[: len(self.mine)]
            rows = gather_rows(self.reducer.comm, mine)
            if rows is not None:
                state[name] = rows
        return state

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state_dict` returned; where that is of another number of micro-batches,
        from the model's own buffers."""
        self.spread()
        for i, name in enumerate(self.names):
            rows = state.get(name)
            if rows is not None and rows.shape == (self.parts, *self.buffers[i].shape):
                for copies, part in zip(self.copies, self.mine, strict=False):
                    copies[i].write(rows[part])


def total(rows: NDArray, reducer: Reducer) -> NDArray:
    """Return the sum of figures (own micro-batches, n) over the micro-batches of all ranks, (n,);
    overwrites the rows."""
    with context.using(phase="communicate", scope="metrics", tape=None):
        own = rows if len(rows) else np.zeros((1, *rows.shape[1:]))
        whole = fold([array(row) for row in own], accumulate)
        allreduce(whole, through=reducer)
        reducer.wait()
    return whole.value
