"""Sequences of several lengths, packed as in torch, and recurrent layers over them.

A recurrent layer pads them inside and computes the padding, too: kernels are made for a number of
sequences, which packed steps would change from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..array import NDArray, array
from ..primitive import Value
from ..tensor import Tensor
from .arrange import cat, pad

# Takes inputs, the states before the first step, w_ih, w_hh and the biases, if any, and whether to
# walk backwards; returns the outputs of all steps and the last states.
Walk: TypeAlias = Callable[[Value, list[Value], Sequence[Tensor], bool], tuple[Value, list[Value]]]
# The logistic function of it is 1, and of its negative 0, in every type.
OPEN = 1e4


class PackedSequence(NamedTuple):
    """Sequences without padding, step by step: in `data` (S, ..) the first step of each, then the
    second step of those that have one, and so on.

    Longer sequences come first. `batch_sizes` (T,) is the number of sequences that have each step;
    `sorted_indices` (N,) are the places in the original order, `unsorted_indices` the way back;
    both are None where the original order is this one."""

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **options: Any) -> PackedSequence:
        """Return it with its data moved or cast, see `Tensor.to`."""
        return self._replace(data=self.data.to(*args, **options))

    def layout(self) -> Layout:
        """Return where each step of each sequence, in the original order, is in the data."""
        sizes = self.batch_sizes.numpy()
        lengths = (sizes[:, None] > np.arange(sizes[0])).sum(0)
        if self.unsorted_indices is not None:
            return Layout(lengths, self.unsorted_indices.numpy())
        if self.sorted_indices is not None:
            return Layout(lengths, np.argsort(self.sorted_indices.numpy()))
        return Layout(lengths, np.arange(len(lengths)))


class Layout:
    """Places of the steps of N sequences in packed data and in a padded tensor (T, N, ..).

    `lengths` are given from the longest on, and kept in the original order, in which sequence n is
    the `ranks[n]`-th longest."""

    def __init__(self, lengths: NDArray, ranks: NDArray) -> None:
        self.lengths = lengths[ranks]
        steps = np.arange(lengths[0])[:, None]
        self.present = steps < self.lengths
        starts = np.cumsum([0, *self.present.sum(1)])
        places = starts[:-1, None] + ranks
        self.table = np.where(self.present, places, starts[-1])  # behind the data: padding
        flat = np.arange(self.table.size).reshape(self.table.shape)
        self.rows = flat[self.present][np.argsort(places[self.present])]
        self.last = flat[self.lengths - 1, np.arange(len(ranks))]
        turned = np.where(self.present, self.lengths - 1 - steps, steps)
        self.turned = turned * len(ranks) + np.arange(len(ranks))

    def padded(self, data: Tensor, value: float = 0.0) -> Tensor:
        """Return packed data (S, ..) as (T, N, ..), with a value where a sequence has ended."""
        behind = [0, 0] * (data.ndim - 1) + [0, 1]
        return pad(data, behind, value=value)[self.table]

    def packed(self, x: Tensor) -> Tensor:
        """Return the steps of (T, N, ..) that are no padding, packed (S, ..)."""
        return _folded(x)[self.rows]

    def walk(self, walk: Walk) -> Walk:
        """Return a walk over padded sequences that ends at the last step of each, and backwards
        begins there."""
        if self.present.all():
            return walk

        def run(
            x: Any, state: list[Value], params: Sequence[Tensor], backwards: bool
        ) -> tuple[Value, list[Value]]:
            if backwards:
                x = _folded(x)[self.turned]
            if len(state) == 2:
                x, params = self._held(x, params)
            y: Any
            y, (_, *cells) = walk(x, state, params, False)
            h = _folded(y)[self.last]
            return _folded(y)[self.turned] if backwards else y, [h, *cells]

        return run

    def _held(self, x: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return inputs and parameters of an LSTM whose cells keep their state in padding.

        Inputs get a column that is 1 in padding; its weights close the input gate and open the
        forget gate."""
        column = Tensor(array(~self.present[..., None], x.dtype))
        w_ih, *others = params
        weights = np.repeat([-OPEN, OPEN, 0.0, 0.0], len(w_ih) // 4)[:, None]
        held = cat([w_ih, Tensor(array(weights, w_ih.dtype))], 1)
        return cat([x, column], 2), [held, *others]


def _folded(x: Tensor) -> Tensor:
    """Return (T, N, ..) as (T N, ..)."""
    return x.reshape(-1, *x.shape[2:])
