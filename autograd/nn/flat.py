"""All parameters in one flat buffer and all gradients in another: a bucket of the gradient
exchange is a slice, the optimizer's update one call, and nothing is packed or copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from .. import backends, context, random
from ..array import Array, array
from ..functional.create import zeros
from ..ledger import Ledger
from ..ops.update import store
from ..tape import Record, Tape, reach
from ..tensor import Parameter, Tensor

__all__ = ["FlatParameters", "flatten", "gradient_order"]


class FlatParameters:
    """Parameters whose numbers are views of `data` and whose gradients are written to views of
    `grad`, both (total size,), one behind the other in the order of `parameters`; `offsets` has
    the first element of each. Built by `flatten`."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        sizes = [p.size for p in self.parameters]
        self.offsets = (*accumulate(sizes[:-1], initial=0),)
        self.dtype: np.dtype[np.generic] = self.parameters[0].dtype
        self.data: Array = zeros(sum(sizes), dtype=self.dtype).data
        self.grad: Array = zeros(sum(sizes), dtype=self.dtype).data
        with context.using(ledger=Ledger(), tape=None):
            for p, offset in zip(self.parameters, self.offsets, strict=True):
                self._adopt(p, offset)

    def _adopt(self, p: Parameter, offset: int) -> None:
        """Move a parameter's numbers, and its gradient if there is one, into the buffers."""
        home = self.data.view(offset, p.shape)
        store(home, p.data)
        p.rebind(home)
        p.slot = self.grad.view(offset, p.shape)
        if p.grad is not None:
            store(p.slot, p.grad.data)
            p.grad = Tensor(p.slot)

    def zero_missing(self) -> None:
        """Write zeros for parameters without a gradient, which is theirs then but for frozen ones,
        and move gradients that somebody set by hand to where they belong. RuntimeError where a
        parameter was laid into another buffer."""
        for i, p in enumerate(self.parameters):
            slot = p.slot
            if slot is None or slot.storage is not self.grad.storage:
                raise RuntimeError(
                    f"parameter {i} of shape {p.shape}: expected it in this flat buffer, found it "
                    "in "
                    "another; give each parameter to one optimizer only"
                )
            if p.grad is None:
                store(slot, array(0, self.dtype))
            elif p.grad.data is not slot:
                store(slot, p.grad.data)
            if p.requires_grad or p.grad is not None:
                # So that a second call does not wipe out what an exchange has summed meanwhile.
                p.grad = Tensor(slot)

    def part(self, array: Array, first: int, last: int) -> Array:
        """Return the parameters from `first` to `last` in an array like `data`, (size,)."""
        if last - first == len(self.parameters) - 1:
            return array
        start = self.offsets[first]
        return array.view(start, (self.offsets[last] + self.parameters[last].size - start,))


def flatten(parameters: Sequence[Parameter]) -> FlatParameters:
    """Lay parameters of one type into a flat buffer in the given order, which had best be that of
    `gradient_order`. Their numbers and gradients stay. ValueError for no parameters, one that is
    listed twice, or several types."""
    if not parameters:
        raise ValueError("flatten: expected at least one parameter, got none")
    if len({id(p) for p in parameters}) != len(parameters):
        raise ValueError("flatten: expected distinct parameters, got one twice")
    types = sorted({str(p.dtype) for p in parameters})
    if len(types) > 1:
        raise ValueError(
            f"flatten: expected parameters of one type, got {' and '.join(types)}: "
            "make a group of each"
        )
    return FlatParameters(parameters)


def gradient_order(run: Callable[[], Tensor], parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters in the order in which a backward sweep from `run()` finishes their
    gradients, those that it does not reach last. Runs forward on the meta backend, so no number,
    gradient, hook, count or random stream is touched. RuntimeError without any gradient to sweep.
    """
    blank = context.using(
        backend=backends.SHAPES_ONLY, tape=Tape(), ledger=Ledger(), phase="forward", scope=""
    )
    with blank, random.replayed(random.moment()):
        first = _first_readers(run())
    never = -1
    return sorted(parameters, key=lambda p: -first.get(id(p), never))


def _first_readers(loss: Tensor) -> dict[int, int]:
    """Map leaves to a number that is the smaller the later the sweep finishes with them: it does
    so at the earliest record that reads them."""
    if loss.source is None:
        raise RuntimeError(
            "gradient_order: expected run() to return a computed tensor, got one without a history"
        )
    first: dict[int, int] = {}
    for record in reach([loss.source[0]]):
        leaves = [id(s[0]) for s in record.sources if s and not isinstance(s[0], Record)]
        # Of one record's leaves the sweep finishes the first argument first.
        for leaf in reversed(dict.fromkeys(leaves)):
            first.setdefault(leaf, len(first))
    return first
