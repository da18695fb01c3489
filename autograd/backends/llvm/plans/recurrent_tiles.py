"""A recurrent layer's way through a whole sequence of bfloat16 by tiles: plans."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from ....array import NDArray, Spec
from ....dtypes import FLOAT32
from ....threads import WORTHWHILE, share
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..compiler.tiles import ROWS
from ..kernels.conv_tiles import BLOCK, blocks, in_tiles, packed_size
from ..kernels.pixels import Windows, gathered
from ..kernels.recurrent_tile_weights import GradientSizes, weights
from ..kernels.recurrent_tiles import BATCH_ROWS, TileLayer, backward, forward
from ..kernels.sweep import copied
from ..kernels.tile_weights import pack
from ..registry import tiled
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain
from ..runtime.parallel import Scratch
from .conv_tiles import PackedWeights
from .recurrent import Flags, placed, rows_of

# Bytes that stay in the second-level cache: of packed rows that all sums see, and of the sums.
PACKED, SUMMED = 7 << 16, 1 << 20
Run = Callable[[int, int, int], None]  # takes the first block of rows, how many, and the thread


class _Layer:
    """What the kernels of a layer share: its sizes, and how threads share the rows of a batch."""

    def __init__(
        self, target: Target, cell: str, shape: tuple[int, ...], inputs: int, backwards: bool
    ) -> None:
        (self.steps, self.batch, self.size), self.target = shape, target
        self.backwards, self.macs = backwards, prod(shape) * (self.size + inputs)
        whole, rest = divmod(self.batch, BATCH_ROWS)
        layer = TileLayer(cell, self.batch, inputs, self.size, in_tiles(BATCH_ROWS))
        self.gates = layer.quarters * self.size
        self.macs *= layer.quarters
        self.room = Scratch(BATCH_ROWS * self.size, FLOAT32)
        self.parts = [(layer, 0, whole)] if whole else []
        self.parts += [(layer._replace(tall=in_tiles(rest)), whole, 1)] if rest else []

    def build(self, make: Any, *options: bool) -> list[tuple[Any, int, int]]:
        """Return kernels, and the blocks of rows that each works on: the first, and how many."""
        return [
            (build(make, self.target, layer, *options), first, count)
            for layer, first, count in self.parts
        ]

    def run(self, kernels: list[tuple[Any, int, int]], pointers: list[int], back: bool) -> None:
        """Run a pass, forward or `back`."""
        down = self.backwards != back
        way = self.steps, self.steps - 1 if down else 0, -1 if down else 1

        def some(begin: int, end: int, worker: int) -> None:
            for function, first, count in kernels:
                start = max(first, begin)
                many = min(first + count, end) - start
                if many > 0:
                    function(*pointers, self.room.address(worker), start, many, *way)

        if self.macs < WORTHWHILE:
            some(0, blocks(self.batch, BATCH_ROWS), 0)
        else:
            share(blocks(self.batch, BATCH_ROWS), some)


def _pays(shape: tuple[int, ...]) -> bool:
    """Tell whether states fill whole tiles."""
    return shape[-1] % BLOCK == 0 and shape[-2] >= ROWS // 2


class _Inputs:
    """Brings inputs (T, N, I) into the order [step][row][numbers, filled up to whole tiles]."""

    def __init__(self, target: Target, x: Spec) -> None:
        (self.steps, self.batch, self.inputs), self.dtype = x
        self.width = blocks(self.inputs) * BLOCK
        steps, batch, size = x.shape
        lines, one = (steps, 1), (0,)
        windows = Windows(batch, size, lines, lines, one, one, (1, 1), self.width)
        self.kernels = {
            turned: build(gathered, target, x.dtype.name, windows, apart)
            for turned, apart in ((False, (size, batch * size, 0)), (True, (steps * size, size, 0)))
        }

    def of(self, x: NDArray) -> NDArray:
        """Return the inputs (T, N, width)."""
        turned = not x.flags.c_contiguous and x.transpose(1, 0, 2).flags.c_contiguous
        if not turned and self.width == self.inputs:
            return plain(x)
        y = memory.empty((self.steps, self.batch, self.width), self.dtype)
        source = x if turned else plain(x)
        self.kernels[turned](address(source), address(y), 0, self.steps)
        return y


def _weights(target: Target, w: Spec, padded: int, turned: bool) -> PackedWeights:
    outer, inner = w.shape
    function = build(pack, target, (outer, inner, 1), BLOCK, padded, turned)
    size = packed_size(inner if turned else outer, padded, BLOCK, 1)
    return PackedWeights(function, size, w.dtype.name)


@tiled("lstm_sequence")
def lstm_sequence(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass over a sequence; None for states that fill no whole tiles."""
    return _forward(target, specs, "lstm", backwards, all_steps=True)


@tiled("lstm_states")
def lstm_states(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass of which only the states are wanted."""
    return _forward(target, specs, "lstm", backwards, all_steps=False)


@tiled("rnn_sequence")
def rnn_sequence(
    target: Target, x: Spec, w_ih: Spec, bias: Spec, h: Spec, w: Spec, *, nonlinearity: str,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an Elman network's forward pass over a sequence."""
    return _forward(target, (x, w_ih, bias, h, h, w), nonlinearity, backwards, all_steps=False)


def _forward(
    target: Target, specs: tuple[Spec, ...], cell: str, backwards: bool, all_steps: bool
) -> Executable | None:
    x, w_ih, _, h, _, w = specs
    shape, dtype = (*x.shape[:2], h.shape[1]), x.dtype
    if not _pays(shape):
        return None
    inputs = _Inputs(target, x)
    layer = _Layer(target, cell, shape, inputs.width, backwards)
    kernels = layer.build(forward, all_steps)
    first, second = (
        _weights(target, w_ih, inputs.width, False),
        _weights(target, w, w.shape[1], False),
    )
    copy = build(copied, target, dtype.name)
    last, lstm = 0 if backwards else -1, cell == "lstm"

    def final(states: NDArray) -> NDArray:
        y = memory.empty(h.shape, dtype)
        copy(address(states[last]), address(y), y.size)
        return y

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, bias, h, *c, w = map(plain, xs)
        hs, rows = memory.empty(shape, dtype), inputs.of(x)
        cells = memory.empty(shape if all_steps else shape[1:], dtype) if lstm else hs
        kept = (*shape[:2], layer.gates) if all_steps else (shape[1], layer.gates)
        acts = memory.empty(kept, dtype) if lstm else hs
        arrays = bias, h, *(c or [h]), hs, cells, acts
        ends = address(rows), first.of(w_ih), second.of(w)
        layer.run(kernels, [*ends, *map(address, arrays)], back=False)
        if not lstm:
            return hs, final(hs)
        if all_steps:
            return hs, final(hs), final(cells), cells, acts
        return hs, final(hs), cells

    return Executable(run, native=True)


@tiled("lstm_sequence_dx")
def lstm_sequence_dx(
    target: Target, acts: Spec, cells: Spec, c: Spec, w: Spec, *grads: Spec, present: Flags,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an LSTM's backward pass over a sequence."""
    run = _backward(target, "lstm", acts, cells, w, present, backwards)
    return run and Executable(run, native=True)


@tiled("rnn_sequence_dx")
def rnn_sequence_dx(
    target: Target, hs: Spec, w: Spec, *grads: Spec, present: Flags, nonlinearity: str,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an Elman network's backward pass over a sequence."""
    whole = _backward(target, nonlinearity, hs, hs, w, (*present, False), backwards)
    if whole is None:
        return None

    def run(hs: NDArray, w: NDArray, *grads: NDArray) -> NDArray:
        dgates: NDArray = whole(hs, hs, hs[0], w, *grads)[0]
        return dgates

    return Executable(run, native=True)


def _backward(
    target: Target, cell: str, acts: Spec, cells: Spec, w: Spec, present: Flags, backwards: bool
) -> Callable[..., tuple[NDArray, NDArray]] | None:
    shape, dtype = cells
    if not _pays(shape):
        return None
    layer = _Layer(target, cell, shape, 0, backwards)
    kernels = layer.build(backward, *present)
    weights = _weights(target, w, layer.gates, True)

    def run(*xs: NDArray) -> tuple[NDArray, NDArray]:
        acts, cells, c, w, *grads = map(plain, xs)
        tops = [acts if g is None else g for g in placed(grads, present)]
        dgates, dc = memory.empty((*shape[:2], layer.gates), dtype), memory.empty(shape[1:], dtype)
        pointers = [address(a) for a in (*tops, acts, cells, c)]
        ends = weights.of(w), address(dgates), address(dc)
        layer.run(kernels, [*pointers, *ends], back=True)
        return dgates, dc

    return run


@tiled("sequence_dw")
def sequence_dw(
    target: Target, dgates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of the weights and the bias, in float32."""
    return _gradients(target, dgates, hs, x, backwards)


@tiled("states_dw")
def states_dw(
    target: Target, dgates: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of the weights of states and of their bias, in float32."""
    return _gradients(target, dgates, hs, None, backwards)


def _gradients(
    target: Target, dgates: Spec, hs: Spec, x: Spec | None, backwards: bool
) -> Executable | None:
    (steps, batch, wide), size, inputs = dgates.shape, hs.shape[2], x.shape[2] if x else 0
    if not _pays(hs.shape):
        return None
    s = GradientSizes(batch, wide, size, inputs, 0).blocked(PACKED, SUMMED, steps * blocks(batch))
    room, kernels, macs = Scratch(s.room, dgates.dtype), {}, dgates.size * (inputs + size)
    way = (steps, steps - 1, -1) if backwards else (steps, 0, 1)

    def run(dgates: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        *some_inputs, hs, h = xs
        read, row, step = rows_of(some_inputs[0]) if some_inputs else (hs, 0, 0)
        if row not in kernels:
            kernels[row] = build(weights, target, s._replace(apart=row))
        ends = [memory.empty((wide, k), FLOAT32) for k in (inputs, size) if k]
        db = memory.empty((wide,), FLOAT32)
        arrays = plain(dgates), read, plain(hs), plain(h), ends[0], ends[-1], db
        pointers = [address(a) for a in arrays]

        def some(first: int, last: int, worker: int) -> None:
            for begin in range(first, last, s.wide):
                count = min(s.wide, last - begin)
                kernels[row](*pointers, room.address(worker), begin, count, *way, step)

        if macs < WORTHWHILE:
            some(0, blocks(wide), 0)
        else:
            share(blocks(wide), some)
        return *ends, db

    return Executable(run, native=True)
