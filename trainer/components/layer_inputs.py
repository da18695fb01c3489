"""What the layers of a model have read in a forward pass, a number for each: without the running
statistics of batch norm, only this tells in which layer a pass went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...autograd import Tensor
from ...autograd.array import Array
from ...autograd.dtypes import FLOAT64, is_floating
from ...autograd.nn.module import Module
from ...autograd.ops.elementwise import add
from ...autograd.ops.reduce import sum as total
from ...autograd.ops.shape import cast
from ...autograd.tape import Record, reach
from ..distributed.verification.digests import Digests

LOSS = "input of the loss"


class LayerInputs:
    """Adds up, in float64, the inputs that each layer with parameters keeps for the backward pass,
    and those of what is computed outside of all modules: the loss. The same numbers have the same
    sum; of other ones in float64, or very many, it may be the same too. `names` says what the sums
    are of, in the order of the modules; without any, there are none."""

    def __init__(self, modules: Iterable[tuple[str, Module]]) -> None:
        layers = [name for name, m in modules if name and [*m.parameters()]]
        self.names = [f"input of {name}" for name in layers]
        if layers:
            self.names.append(LOSS)
            layers.append("")
        self._places = {name: i for i, name in enumerate(layers)}
        self._found: list[int] = []  # places of what `sums` returned; the same in every pass

    def sums(self, loss: Tensor) -> list[Tensor]:
        """Return the sums of the pass that has led to a loss and is not swept yet, each a scalar;
        none for layers that keep nothing."""
        sums: dict[int, Array] = {}
        for scope, array in _kept(loss):
            if (place := self._places.get(scope)) is not None:
                one = total(cast(array, dtype=FLOAT64), axes=tuple(range(len(array.spec.shape))))
                sums[place] = add(sums[place], one) if place in sums else one
        self._found = [*sums]
        return [Tensor(array) for array in sums.values()]

    def digests(self, passes: Sequence[Sequence[float]]) -> Digests:
        """Return a digest for each name of the sums of several passes, an empty sequence for one
        without samples."""
        digests = np.zeros(len(self.names), np.uint64)
        for sums in filter(len, passes):
            digests[self._found] += np.array(sums, np.float64).view(np.uint64)
        return digests


def _kept(loss: Tensor) -> list[tuple[str, Array]]:
    """Return the activations that a pass has kept, each with the scope of its first reader."""
    record = loss.source[0] if loss.source else None
    assert isinstance(record, Record)
    kept: dict[int, tuple[str, Array]] = {}
    for each in reach([record]):
        for (kind, _), (array, _) in each.saved.items():
            read = kind == "input" or not each.scope  # losses keep what they make of their input
            if read and is_floating(array.spec.dtype) and not array.storage.persistent:
                kept.setdefault(id(array.storage), (each.scope, array))
    return [*kept.values()]
