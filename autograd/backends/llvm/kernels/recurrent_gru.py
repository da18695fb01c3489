"""Kernels of a layer of gated recurrent units over a whole sequence, forward and backward.

Loops, tiles and panels are those of `recurrent.py`, with the three gates of as many units as a
vector holds side by side in a panel. The products of the inputs with their weights are given."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder, pieces
from ..compiler.mathematics import sigmoid, tanh
from .recurrent import (
    TOGETHER,
    BatchRows,
    Factors,
    RecurrentLayer,
    StepBack,
    carry,
    each_panel,
    products,
)
from .recurrent_cell import gated_slopes
from .sweep import sweep

GATES = 3
PLACES = (0, 1, 3)  # of the sums r z m among the blocks r z n m of acts


class _Step(NamedTuple):
    """Addresses of one step forward."""

    k: KernelBuilder
    size: int  # numbers in a state
    gates: Any  # of the inputs
    bias: Any
    before: Any  # states before the step
    states: Any  # after it
    acts: Any

    def multiply(self, panel: Any, unit: Integer, units: int, row: Integer, many: int) -> None:
        """Write the products of some rows with a panel to acts, then the states."""
        k, size = self.k, self.size
        bias = [k.load(k.at(self.bias, unit, q * size), units) for q in range(GATES)]
        totals = [[k.variable(b) for b in bias] for _ in range(many)]
        h = k.at(self.before, (row, size))
        products(k, Factors(h, size, 1, panel, GATES * k.lanes), size, totals)
        for r, line in enumerate(totals):
            at = k.sum((k.sum(row, r), 4 * size), unit)
            for total, place in zip(line, PLACES, strict=True):
                k.store(total.get(), k.at(self.acts, at, place * size), units)
        for begin, count, rows in pieces(many, TOGETHER):
            with k.loop(count) as i:
                for r in range(rows):
                    self._finish(k.sum(row, (i, rows), begin + r), unit, units)

    def _finish(self, row: Integer, unit: Integer, units: int) -> None:
        """Make a row's gates and states of the sums."""
        k, size = self.k, self.size
        kept = [k.at(self.acts, (row, 4 * size), unit, q * size) for q in range(4)]
        x = [
            k.load(k.at(self.gates, (row, GATES * size), unit, q * size), units)
            for q in range(GATES)
        ]
        r, z = (sigmoid(k, k.load(kept[q], units) + x[q]) for q in (0, 1))
        n = tanh(k, x[2] + r * k.load(kept[3], units))
        for value, at in zip((r, z, n), kept, strict=False):
            k.store(value, at, units)
        old = k.load(k.at(self.before, (row, size), unit), units)
        k.store(n + z * (old - n), k.at(self.states, (row, size), unit), units)


def forward(target: Target, dtype: str, layer: RecurrentLayer) -> KernelBuilder:
    """Return the kernel of a sequence: what `gru_sequence` takes, the weights being a panel, and
    gives; rows of the batch and those of the call; steps, the first one, and how far it is to the
    next."""
    pointers = ("gates", "bias", "h", "w", "hs", "acts")
    k = KernelBuilder(
        target, dtype, pointers, ("batch", "first", "tiles", "others", "steps", "start", "way")
    )
    gates, bias, h, w, hs, acts = k.arguments[: len(pointers)]
    batch, first, tiles, others, steps, start, way = k.arguments[len(pointers) :]
    rows, size = BatchRows(k, layer.rest, first, tiles, others), layer.size
    states, panel = k.times(batch, size), size * GATES * k.lanes
    with k.loop(steps) as s:
        t = k.sum(start, (s, way))
        # In the first step the address before it lies outside of hs; it is not read.
        before = k.at(hs, (k.builder.sub(t, way), states))
        step = _Step(
            k, size, k.at(gates, (t, k.times(batch, layer.gates))), bias,
            k.builder.select(k.none(s), h, before), k.at(hs, (t, states)),
            k.at(acts, (t, k.times(batch, 4 * size))),
        )  # fmt: skip
        each_panel(layer, w, panel, rows, step.multiply)
    return k


class _Slopes(NamedTuple):
    """Addresses of one step backward."""

    k: KernelBuilder
    size: int
    top: Any  # gradient of the state from above, None without
    acts: Any
    old: Any  # states before the step
    dgates: Any
    dstates: Any
    dh: Any

    def write(self, row: Integer) -> None:
        """Turn a row's gradient of the state into those of the gates; leave what passes by."""
        k, size = self.k, self.size

        def body(unit: Integer, some: Integer | None) -> None:
            at = k.sum((row, size), unit)
            dh = k.load(k.at(self.dh, at), some)
            if self.top is not None:
                dh = dh + k.load(k.at(self.top, at), some)
            kept = [k.at(self.acts, (row, 4 * size), unit, q * size) for q in range(4)]
            acts = [k.load(a, some) for a in kept]
            (dr, dz, dn), dm = gated_slopes(k, acts, dh, k.load(k.at(self.old, at), some))
            for results, last in ((self.dgates, dn), (self.dstates, dm)):
                for q, value in enumerate((dr, dz, last)):
                    place = k.at(results, (row, GATES * size), unit, q * size)
                    k.store(value, place, some)
            k.store(dh * acts[1], k.at(self.dh, at), some)

        sweep(k, size, body, unroll=1)


def backward(target: Target, dtype: str, layer: RecurrentLayer, tops: bool) -> KernelBuilder:
    """Return the kernel that goes back through a sequence: the gradient of hs (if `tops`), acts,
    hs, h, w; the gradients of the gates of inputs and of states, and that of the state, which holds
    the last one's before; the integers of `forward`."""
    pointers = ("dhs", "acts", "hs", "h", "w", "dgates", "dstates", "dh")
    k = KernelBuilder(
        target, dtype, pointers, ("batch", "first", "tiles", "others", "steps", "start", "way")
    )
    dhs, acts, hs, h, w, dgates, dstates, dh = k.arguments[: len(pointers)]
    batch, first, tiles, others, steps, start, way = k.arguments[len(pointers) :]
    rows, size = BatchRows(k, layer.rest, first, tiles, others), layer.size
    states, wide = k.times(batch, size), k.times(batch, layer.gates)
    kept = k.times(batch, 4 * size)
    with k.loop(steps) as s:
        t, last = k.sum(start, (s, way)), k.builder.icmp_signed("==", k.sum(s, 1), steps)
        after = k.sum(t, way)
        old = k.builder.select(last, h, k.at(hs, (after, states)))
        slopes = _Slopes(
            k, size, k.at(dhs, (t, states)) if tops else None, k.at(acts, (t, kept)), old,
            k.at(dgates, (t, wide)), k.at(dstates, (t, wide)), dh,
        )  # fmt: skip
        with k.loop(rows.many()) as r:
            slopes.write(k.sum(first, r))
        with k.where(k.builder.not_(last)):
            later = k.at(acts, (after, kept))
            carry(
                StepBack(k, layer, None, None, later, None, None, slopes.dstates, dh, None), w, rows
            )
    return k
