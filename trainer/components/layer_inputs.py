"""What the layers of a model have read in a forward pass, a number for each: without the running
statistics of batch norm, only this tells in which layer a pass went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ...autograd import Tensor, context
from ...autograd.array import Array
from ...autograd.dtypes import is_floating
from ...autograd.ops.elementwise import add
from ...autograd.ops.reduce import checksum
from ...autograd.tape import Record, reach
from ..distributed.verification.digests import Digests

LOSS = ""  # the scope of what is computed outside of all modules


class LayerInputs:
    """Adds up the bits of the inputs that each of some layers keeps for the backward pass, and of
    what the loss keeps. `names` says what the sums are of; without layers there are none."""

    def __init__(self, layers: Iterable[str]) -> None:
        scopes = [*dict.fromkeys(filter(None, layers))]
        self.names = [f"input of {name}" for name in scopes]
        if scopes:
            scopes.append(LOSS)
            self.names.append("input of the loss")
        self._places = {name: i for i, name in enumerate(scopes)}
        self._found: list[int] = []  # places of what `sums` returned; the same in every pass

    def sums(self, loss: Tensor) -> list[Tensor]:
        """Return the sums of the pass that has led to a loss and is not swept yet, each a scalar;
        none for layers that keep nothing."""
        sums: dict[int, Array] = {}
        with context.using(scope="verification"):
            for scope, array in self._kept(loss) if self.names else ():
                place, one = self._places[scope], checksum(array)
                sums[place] = add(sums[place], one) if place in sums else one
        self._found = [*sums]
        return [Tensor(array) for array in sums.values()]

    def digests(self, passes: Sequence[Sequence[int]]) -> Digests:
        """Return a digest for each name of the sums of several passes, an empty sequence for one
        without samples."""
        digests = np.zeros(len(self.names), np.uint64)
        for sums in filter(len, passes):
            digests[self._found] += np.array(sums, np.int64).view(np.uint64)
        return digests

    def _kept(self, loss: Tensor) -> Iterator[tuple[str, Array]]:
        """Yield the activations that a pass has kept, each with the scope of its reader."""
        assert loss.source is not None and isinstance(loss.source[0], Record)
        records = reach([loss.source[0]])
        last = max((each.seq for each in records if each.scope), default=-1)
        for each in records:
            is_loss = each.seq > last  # else a function between two layers
            if each.scope not in self._places or is_loss != (each.scope == LOSS):
                continue
            for (kind, _), (array, _) in each.saved.items():
                read = kind == "input" or is_loss  # a loss may keep what it makes of its input
                if read and is_floating(array.spec.dtype) and not array.storage.persistent:
                    yield each.scope, array
