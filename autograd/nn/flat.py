"""All parameters in one flat buffer and all gradients in another.

A bucket of the gradient exchange is then a slice, the optimizer's update one call, and nothing is
packed or copied. Parameters are laid out in the order in which the backward sweep finishes their
gradients, so that the first slice can be sent while the sweep still works on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import prod

import numpy as np

from .. import backends, context, random
from ..array import Array, NDArray, array
from ..dtypes import DType, computed_in
from ..functional.create import zeros
from ..ledger import Ledger
from ..narrow_copy import NarrowCopy, renew
from ..ops.update import store
from ..tape import Record, Tape, reach
from ..tensor import Parameter, Tensor

__all__ = ["FlatParameters", "flatten", "gradient_order"]


class FlatParameters:
    """Parameters whose numbers are views of `data` and whose gradients are written to views of
    `grad`.

    Both buffers are (total size,), one parameter after the other in the order of `parameters`;
    `offsets` has the first element of each. Built by `flatten`."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        sizes = [p.size for p in self.parameters]
        self.offsets = (*accumulate(sizes[:-1], initial=0),)
        self.shapes = tuple(p.shape for p in self.parameters)
        self._slices: tuple[FlatParameters, ...] | None = None
        self.dtype: np.dtype[np.generic] = self.parameters[0].dtype
        self.data: Array = zeros(sum(sizes), dtype=self.dtype).array.own()
        self.grad: Array = zeros(sum(sizes), dtype=self.dtype).array
        self.data.storage.narrow = NarrowCopy()
        with context.using(ledger=Ledger(), tape=None):
            for p, offset in zip(self.parameters, self.offsets, strict=True):
                self._adopt(p, offset)

    @property
    def computed_in(self) -> DType:
        """The type of numbers such as a rate: that in which updates are computed."""
        return computed_in(self.dtype)

    def _adopt(self, p: Parameter, offset: int) -> None:
        """Move a parameter's numbers, and its gradient if there is one, into the buffers."""
        home = self.data.view(offset, p.shape)
        store(home, p.array)
        p.rebind(home)
        p.slot = self.grad.view(offset, p.shape)
        if p.grad is not None:
            store(p.slot, p.grad.array)
            p.grad = Tensor(p.slot)

    def lay_gradients(self, memory: NDArray) -> None:
        """Let the gradients lie in the given memory, (total size,), from now on; they are zeros
        there. ValueError for memory of another size or type, RuntimeError once there are
        gradients."""
        if memory.shape != self.grad.shape or memory.dtype != self.dtype:
            raise ValueError(
                f"gradients: expected memory for {self.grad.spec.size} {self.dtype} elements, got "
                f"{memory.shape} {memory.dtype}"
            )
        if any(p.grad is not None for p in self.parameters):
            raise RuntimeError("gradients: expected none before they are laid elsewhere, got some")
        memory[...] = 0
        self.grad = array(memory)
        for p, offset in zip(self.parameters, self.offsets, strict=True):
            p.slot = self.grad.view(offset, p.shape)

    def zero_missing(self) -> None:
        """Complete the gradient buffer before an exchange or an update.

        Parameters without a gradient get zeros, which are their gradient from then on unless they
        are frozen; gradients that were set by hand are moved to where they belong. RuntimeError
        where a parameter has been laid into another buffer."""
        for i, p in enumerate(self.parameters):
            slot = p.slot
            if slot is None or slot.storage is not self.grad.storage:
                raise RuntimeError(
                    f"parameter {i} of shape {p.shape}: expected it in this flat buffer, found it "
                    "in another; give each parameter to one optimizer only"
                )
            if p.grad is None:
                store(slot, array(0, self.dtype))
            elif p.grad.array is not slot:
                store(slot, p.grad.array)
            if p.requires_grad or p.grad is not None:
                # So that a second call does not wipe out what an exchange has summed meanwhile.
                p.grad = Tensor(slot)

    def narrow(self) -> Array | None:
        """Return the narrow copy of `data`, which an update is to write in passing; None where it
        is not read between updates, or not up to date."""
        copy = self.data.storage.narrow
        return copy.array if copy and copy.is_read and copy.is_current(self.data) else None

    def mark_narrow_current(self) -> None:
        """Take note that the narrow copy has the numbers of `data`."""
        if copy := self.data.storage.narrow:
            copy.version = self.data.storage.version

    def renew_narrow(self) -> None:
        """Bring the narrow copy up to date after an update, if it was read before."""
        copy = self.data.storage.narrow
        if copy and copy.array is not None and copy.is_read:
            renew(self.data, copy.array.dtype, False)
            copy.is_read = False

    def invalidate_narrow(self) -> None:
        """Let the narrow copy be made anew before it is read."""
        if copy := self.data.storage.narrow:
            copy.version = -1

    @property
    def slices(self) -> tuple[FlatParameters, ...]:
        """What an optimizer updates here: a group for each, all parameters unless `cut`."""
        return (self,) if self._slices is None else self._slices

    def cut(self, spans: Iterable[tuple[int, int]], whole: bool = False) -> None:
        """Let optimizers that are made from now on update, and keep state for, only these ranges of
        elements, each from its first up to but without its last; with `whole`, they are of whole
        parameters, which keep their shapes."""
        self._slices = tuple(FlatSlice(self, start, stop, whole) for start, stop in spans)

    def part(self, array: Array, first: int, last: int) -> Array:
        """Return the parameters from `first` to `last` in an array like `data`, (size,)."""
        # The usual case, all of them, makes no view.
        if last - first == len(self.parameters) - 1:
            return array
        start = self.offsets[first]
        return array.view(start, (self.offsets[last] + prod(self.shapes[last]) - start,))


class FlatSlice(FlatParameters):
    """The elements from `start` up to but without `stop` of flat parameters, which may begin and
    end inside a parameter, unless it has parameters as a `whole`. `shapes` has (elements,) of what
    lies inside of each, or the shapes of whole ones, `inside` their range in the parameter."""

    def __init__(self, flat: FlatParameters, start: int, stop: int, whole: bool) -> None:
        pairs = [
            (p, range(max(start - offset, 0), min(stop - offset, p.size)))
            for p, offset in zip(flat.parameters, flat.offsets, strict=True)
        ]
        pairs = [(p, inside) for p, inside in pairs if inside]
        self.parameters = tuple(p for p, _ in pairs)
        self.inside = tuple(inside for _, inside in pairs)
        sizes = [len(inside) for inside in self.inside]
        self.shapes = tuple(p.shape if whole else (len(inside),) for p, inside in pairs)
        self.offsets = (*accumulate(sizes[:-1], initial=0),) if sizes else ()
        self._slices = None
        self.dtype = flat.dtype
        self.data = flat.data.view(start, (stop - start,))
        self.grad = flat.grad.view(start, (stop - start,))

    def narrow(self) -> None:
        """Leave the narrow copy to who has all elements."""

    def renew_narrow(self) -> None:
        """Leave the narrow copy to who has all elements."""


def flatten(parameters: Sequence[Parameter]) -> FlatParameters:
    """Lay parameters of one type into a flat buffer in the given order; numbers and gradients stay.

    The best order is that of `gradient_order`. ValueError for no parameters, one that is listed
    twice, or several types."""
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


def gradient_order(
    run: Callable[[], Tensor],
    parameters: Sequence[Parameter],
    backend: str = backends.SHAPES_ONLY,
) -> list[Parameter]:
    """Return the parameters in the order in which a backward sweep from `run()` finishes their
    gradients.

    Those that it does not reach come last. `run` is called on the meta backend, so no number,
    gradient, hook, count or random stream is touched; on another, `run` may change buffers.
    NoNumbers where it reads numbers on the former, RuntimeError where its result has no history."""
    blank = context.using(backend=backend, tape=Tape(), ledger=Ledger(), phase="forward", scope="")
    with blank, random.replayed(random.moment()):
        first = _first_readers(run())
    never = -1
    return sorted(parameters, key=lambda p: -first.get(id(p), never))


def _first_readers(loss: Tensor) -> dict[int, int]:
    """Map leaves to a number that is smaller the later the sweep finishes with them.

    It finishes with a leaf at the earliest record that reads it."""
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
