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
from ..kernels.recurrent_tiles import BATCH_ROWS, TileLayer, forward
from ..kernels.recurrent_tiles_back import backward
from ..kernels.sweep import copied
from ..kernels.tile_weights import pack
from ..registry import tiled
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import address, plain
from ..runtime.parallel import Scratch
from . import gru_products
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
        self.gates, self.kept = layer.gates, layer.form.kept * self.size
        self.macs *= self.gates // self.size
        self.room = Scratch(layer.room, FLOAT32)
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


class _Forward(_Layer):
    """A layer's way forward, for x, w_ih, h and w of some specs; `keeps` tells whether values are
    kept for the way back."""

    def __init__(
        self, target: Target, cell: str, specs: tuple[Spec, ...], backwards: bool, keeps: bool
    ) -> None:
        x, w_ih, h, w = specs
        self.inputs, self.keeps = _Inputs(target, x), keeps
        self.shape, self.dtype = (*x.shape[:2], h.shape[1]), x.dtype
        super().__init__(target, cell, self.shape, self.inputs.width, backwards)
        self.kernels = self.build(forward, keeps)
        widths = self.inputs.width, w.shape[1]
        self.weights = [
            _weights(target, s, n, False) for s, n in zip((w_ih, w), widths, strict=True)
        ]
        self.copy = build(copied, target, self.dtype.name)

    def last(self, states: NDArray) -> NDArray:
        """Return a copy of the states after the last step."""
        y = memory.empty(self.shape[1:], self.dtype)
        self.copy(address(states[0 if self.backwards else -1]), address(y), y.size)
        return y

    def call(
        self, x: NDArray, weights: tuple[NDArray, NDArray], biases: tuple[NDArray, NDArray],
        starts: tuple[NDArray, NDArray], cells: NDArray | None = None,
    ) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
        """Run through a sequence from h and what rows carry; return all states, the last one, and
        what is kept."""
        hs, rows = memory.empty(self.shape, self.dtype), self.inputs.of(x)
        acts = memory.empty((*self.shape[:2], self.kept), self.dtype) if self.keeps else hs
        packed = [pack.of(w) for pack, w in zip(self.weights, weights, strict=True)]
        arrays = *biases, *starts, hs, hs if cells is None else cells, acts
        self.run(self.kernels, [address(rows), *packed, *map(address, arrays)], back=False)
        return hs, self.last(hs), acts


def _forward(
    target: Target, cell: str, specs: tuple[Spec, ...], backwards: bool, keeps: bool
) -> _Forward | None:
    """Plan a layer's way forward; None for states that fill no whole tiles."""
    x, _, h, _ = specs
    pays = _pays((*x.shape[:2], h.shape[1]))
    return _Forward(target, cell, specs, backwards, keeps) if pays else None


@tiled("lstm_sequence")
def lstm_sequence(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass over a sequence; None for states that fill no whole tiles."""
    return _lstm(target, specs, backwards, keeps=True)


@tiled("lstm_states")
def lstm_states(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan an LSTM's forward pass of which only the states are wanted."""
    return _lstm(target, specs, backwards, keeps=False)


def _lstm(
    target: Target, specs: tuple[Spec, ...], backwards: bool, keeps: bool
) -> Executable | None:
    x, w_ih, _, h, _, w = specs
    layer = _forward(target, "lstm", (x, w_ih, h, w), backwards, keeps)
    if layer is None:
        return None

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, bias, h, c, w = map(plain, xs)
        cells = memory.empty(layer.shape if keeps else h.shape, layer.dtype)
        hs, last, acts = layer.call(x, (w_ih, w), (bias, bias), (h, c), cells)
        return (hs, last, layer.last(cells), cells, acts) if keeps else (hs, last, cells)

    return Executable(run, native=True)


@tiled("gru_sequence")
def gru_sequence(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan a GRU's forward pass over a sequence."""
    return _gru(target, specs, backwards, keeps=True)


@tiled("gru_states")
def gru_states(target: Target, *specs: Spec, backwards: bool) -> Executable | None:
    """Plan a GRU's forward pass of which only the states are wanted."""
    return _gru(target, specs, backwards, keeps=False)


def _gru(
    target: Target, specs: tuple[Spec, ...], backwards: bool, keeps: bool
) -> Executable | None:
    x, w_ih, _, h, w, _ = specs
    layer = _forward(target, "gru", (x, w_ih, h, w), backwards, keeps)
    if layer is None:
        return gru_products.projected(target, specs, backwards, keeps)

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, b_ih, h, w, b_hh = map(plain, xs)
        hs, last, acts = layer.call(x, (w_ih, w), (b_ih, b_hh), (h, h))
        return (hs, last, acts) if keeps else (hs, last)

    return Executable(run, native=True)


@tiled("rnn_sequence")
def rnn_sequence(
    target: Target, x: Spec, w_ih: Spec, bias: Spec, h: Spec, w: Spec, *, nonlinearity: str,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an Elman network's forward pass over a sequence."""
    layer = _forward(target, nonlinearity, (x, w_ih, h, w), backwards, keeps=False)
    if layer is None:
        return None

    def run(x: NDArray, *xs: NDArray) -> tuple[NDArray, ...]:
        w_ih, bias, h, w = map(plain, xs)
        return layer.call(x, (w_ih, w), (bias, bias), (h, h))[:2]

    return Executable(run, native=True)


@tiled("lstm_sequence_dx")
def lstm_sequence_dx(
    target: Target, acts: Spec, cells: Spec, c: Spec, w: Spec, *grads: Spec, present: Flags,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an LSTM's backward pass over a sequence."""
    run = _backward(target, "lstm", cells, w, present, backwards)
    return run and Executable(run, native=True)


@tiled("rnn_sequence_dx")
def rnn_sequence_dx(
    target: Target, hs: Spec, w: Spec, *grads: Spec, present: Flags, nonlinearity: str,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan an Elman network's backward pass over a sequence."""
    whole = _backward(target, nonlinearity, hs, w, (*present, False), backwards)
    if whole is None:
        return None

    def run(hs: NDArray, w: NDArray, *grads: NDArray) -> NDArray:
        dgates: NDArray = whole(hs, hs, hs[0], w, *grads)[0]
        return dgates

    return Executable(run, native=True)


@tiled("gru_sequence_dx")
def gru_sequence_dx(
    target: Target, acts: Spec, hs: Spec, h: Spec, w: Spec, *grads: Spec, present: Flags,
    backwards: bool,
) -> Executable | None:  # fmt: skip
    """Plan a GRU's backward pass over a sequence."""
    run = _backward(target, "gru", hs, w, (*present, False), backwards)
    return run and Executable(run, native=True)


def _backward(
    target: Target, cell: str, states: Spec, w: Spec, present: Flags, backwards: bool
) -> Callable[..., tuple[NDArray, ...]] | None:
    """Plan a layer's way back: a function of what is kept, cells and c (of a GRU, hs and h), w and
    gradients, which returns those of the gates, of a GRU's gates of states too, and of what the
    first step was given to carry."""
    shape, dtype = states
    if not _pays(shape):
        return None
    layer, gru = _Layer(target, cell, shape, 0, backwards), cell == "gru"
    kernels = layer.build(backward, *present)
    weights = _weights(target, w, layer.gates, True)

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        acts, cells, c, w, *grads = map(plain, xs)
        tops = [acts if g is None else g for g in placed(grads, present)]
        dgates = [memory.empty((*shape[:2], layer.gates), dtype) for _ in range(1 + gru)]
        dc = memory.empty(shape[1:], dtype)
        pointers = [address(a) for a in (*tops, acts, cells, c)]
        ends = weights.of(w), address(dgates[0]), address(dgates[-1]), address(dc)
        layer.run(kernels, [*pointers, *ends], back=True)
        return *dgates, dc

    return run


@tiled("sequence_dw")
def sequence_dw(
    target: Target, dgates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of the weights and the bias, in float32."""
    return _gradients(target, dgates, hs, x, backwards)


@tiled("gru_dw")
def gru_dw(
    target: Target, dgates: Spec, dstates: Spec, x: Spec, hs: Spec, h: Spec, *, backwards: bool
) -> Executable | None:
    """Plan the gradients of a GRU's weights and biases, in float32."""
    plan = _gradients(target, dgates, hs, x, backwards, others=True)
    return plan or gru_products.gradients(target, dgates, x, hs, backwards)


def _gradients(
    target: Target, dgates: Spec, hs: Spec, x: Spec, backwards: bool, others: bool = False
) -> Executable | None:
    (steps, batch, wide), size, inputs = dgates.shape, hs.shape[2], x.shape[2]
    if not _pays(hs.shape):
        return None
    s = GradientSizes(batch, wide, size, inputs, 0, others=others)
    s = s.blocked(PACKED, SUMMED, steps * blocks(batch))
    room, kernels, macs = Scratch(s.room, dgates.dtype), {}, dgates.size * (inputs + size)
    way = (steps, steps - 1, -1) if backwards else (steps, 0, 1)

    def run(*xs: NDArray) -> tuple[NDArray, ...]:
        *top, x, hs, h = xs
        read, row, step = rows_of(x)
        if row not in kernels:
            kernels[row] = build(weights, target, s._replace(apart=row))
        dw_ih, dw = (memory.empty((wide, k), FLOAT32) for k in (inputs, size))
        biases = [memory.empty((wide,), FLOAT32) for _ in range(1 + others)]
        tops = [*map(plain, top)]
        arrays = (
            tops[0], tops[-1], read, plain(hs), plain(h), dw_ih, dw, biases[0], biases[-1],
        )  # fmt: skip
        pointers = [address(a) for a in arrays]

        def some(first: int, last: int, worker: int) -> None:
            for begin in range(first, last, s.wide):
                count = min(s.wide, last - begin)
                kernels[row](*pointers, room.address(worker), begin, count, *way, step)

        if macs < WORTHWHILE:
            some(0, s.blocks, 0)
        else:
            share(s.blocks, some)
        return (dw_ih, biases[0], dw, biases[1]) if others else (dw_ih, dw, biases[0])

    return Executable(run, native=True)
