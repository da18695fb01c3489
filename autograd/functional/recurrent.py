"""Recurrent networks. Weights and gates are torch's.

The gates of an LSTM are ordered i f g o and its weights are (4 H, I) and (4 H, H); those of a GRU
are ordered r z n, its weights (3 H, I) and (3 H, H); an Elman network's are (H, I) and (H, H)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from .. import context
from ..ops import gru as units
from ..ops import recurrent as ops
from ..ops import recurrent_sequence as sequences
from ..ops.elementwise import add
from ..ops.shape import full, reshape
from ..primitive import Value
from ..tensor import Tensor
from .arrange import cat, stack
from .create import zeros_like
from .dropout import dropout as drop
from .linear import linear
from .packed import PackedSequence, Walk

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn_cell", "rnn_relu", "rnn_tanh"]

# A tensor (T, N, C), or sequences of several lengths.
Steps = TypeVar("Steps", Tensor, PackedSequence)
NONLINEARITIES = ops.NONLINEARITIES


def _lstm_walk(
    x: Value, state: list[Value], params: Sequence[Tensor], backwards: bool
) -> tuple[Value, list[Value]]:
    """Run an LSTM through one layer in one direction."""
    # Without a tape nobody asks for a gradient.
    run = sequences.lstm_states if context.current().tape is None else sequences.lstm_sequence
    w_ih, w_hh, bias = _summed(*params)
    hs, h, c, *_ = run(x, w_ih, bias, *state, w_hh, backwards=backwards)
    return hs, [h, c]


def _projected_walk(starts: bool) -> Walk:
    """Return the function that runs an LSTM whose states are projected, from given states or zeros.

    A step multiplies its states by w_hh w_hr, so that the sequence is one call; the first one reads
    the given state h as further inputs."""

    def walk(
        x: Any, state: list[Any], params: Sequence[Tensor], backwards: bool
    ) -> tuple[Value, list[Value]]:
        w_ih, w_hh, *biases, w_hr = params
        h, c = state
        if starts:
            w_ih = cat([w_ih, w_hh], 1)
            first = stack([h] + [zeros_like(h)] * (len(x) - 1))
            x = cat([x, first.flip(0) if backwards else first], 2)
        zero = full(shape=c.shape, dtype=c.dtype, value=0.0)
        weights = w_ih, w_hh.matmul(w_hr), *biases
        hs, (last, c) = _lstm_walk(x, [zero, c], weights, backwards)
        y, last = linear(hs, w_hr), linear(last, w_hr)
        return y, [last, c]

    return walk


def _gru_walk(
    x: Value, state: list[Value], params: Sequence[Tensor], backwards: bool
) -> tuple[Value, list[Value]]:
    """Run a GRU through one layer in one direction."""
    w_ih, w_hh, *biases = params
    b_ih, b_hh = biases or [_no_bias(w_hh)] * 2
    run = units.gru_states if context.current().tape is None else units.gru_sequence
    hs, h, *_ = run(x, w_ih, b_ih, *state, w_hh, b_hh, backwards=backwards)
    return hs, [h]


def _rnn_walk(nonlinearity: str) -> Walk:
    """Return the function that runs an Elman network through one layer in one direction."""

    def walk(
        x: Value, state: list[Value], params: Sequence[Tensor], backwards: bool
    ) -> tuple[Value, list[Value]]:
        options = {"nonlinearity": nonlinearity, "backwards": backwards}
        w_ih, w_hh, bias = _summed(*params)
        hs, h = sequences.rnn_sequence(x, w_ih, bias, *state, w_hh, **options)
        return hs, [h]

    return walk


def _summed(w_ih: Tensor, w_hh: Tensor, *biases: Tensor) -> tuple[Value, Value, Value]:
    """Return both weights and the sum of the biases, zeros without."""
    return w_ih, w_hh, add(*biases) if biases else _no_bias(w_hh)


def _no_bias(w: Tensor) -> Value:
    return full(shape=w.shape[:1], dtype=w.dtype, value=0.0)


def rnn_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> Tensor:
    """Return the next state (N, H) of an Elman network for an input (N, I) and a state (N, H).

    It is f(x w_ih^T + b_ih + h w_hh^T + b_hh), f being "tanh" or "relu" (Elman 1990). ValueError
    for another nonlinearity."""
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"rnn_cell: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
    sums = linear(input, w_ih, b_ih), linear(hx, w_hh, b_hh)
    h: Tensor = ops.rnn_cell(*sums, nonlinearity=nonlinearity)
    return h


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the next (h, c), each (N, H), of an LSTM for an input (N, I).

        i, f, g, o = the quarters of x w_ih^T + b_ih + h w_hh^T + b_hh
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.)"""
    gates = add(linear(input, w_ih, b_ih), linear(hx[0], w_hh, b_hh))
    h, c, _ = ops.lstm_cell(gates, hx[1])
    return h, c


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """Return the next state (N, H) of a GRU for an input (N, I) and a state (N, H).

        a = x w_ih^T + b_ih, u = h w_hh^T + b_hh, each with the thirds r, z, n
        r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
        n = tanh(a_n + r u_n)
        h' = (1 - z) n + z h

    (Gated recurrent unit, Cho et al. 2014, with torch's place of r.) ValueError for shapes that do
    not fit."""
    gates, sums = linear(input, w_ih, b_ih), linear(hx, w_hh, b_hh)
    if hx.ndim != 2 or not gates.shape == sums.shape == (hx.shape[0], 3 * hx.shape[1]):
        raise ValueError(
            f"gru_cell: expected states (N, H) and gates (N, 3 H), got {hx.shape}, "
            f"{gates.shape} and {sums.shape}"
        )
    return units.gru_cell(gates, sums, hx)


def lstm(
    input: Steps,
    hx: tuple[Tensor, Tensor] | None,
    params: Sequence[Tensor],
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Steps, tuple[Tensor, Tensor]]:
    """Run an LSTM over sequences; return the last layer's states and the final (h, c).

    Input is (T, N, I), (N, T, I) with `batch_first`, or (T, I); states (h, c) are (layers x
    directions, N, H), None for zeros. The last layer's states are (T, N, directions x H). A
    `PackedSequence` gives another one, and the final states of each sequence.

    `params`: for each layer, for each direction, w_ih, w_hh and, in all or none, b_ih and b_hh, and
    w_hr (P, H), which projects the states h to P numbers (Sak et al. 2014). `dropout` acts between
    layers in training. ValueError for shapes that do not fit."""
    many = len(params) / max(num_layers * (1 + bidirectional), 1)
    projects = many in (3, 5) and params[-1].ndim == 2
    walk = _projected_walk(hx is not None) if projects else _lstm_walk
    net = _Network("lstm", 4, walk, num_layers, bidirectional, batch_first, projects)
    y, (h, c) = net.run(input, hx, 2, params, dropout if training else 0.0)
    return y, (h, c)


def gru(
    input: Steps,
    hx: Tensor | None,
    params: Sequence[Tensor],
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Steps, Tensor]:
    """Run a gated recurrent unit, see `gru_cell`, over sequences; all as in `lstm`, with a single
    state h."""
    net = _Network("gru", 3, _gru_walk, num_layers, bidirectional, batch_first)
    return net.run_single(input, hx, params, dropout if training else 0.0)


def rnn_tanh(
    input: Steps,
    hx: Tensor | None,
    params: Sequence[Tensor],
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Steps, Tensor]:
    """Run an Elman network (Elman 1990) over sequences; all as in `lstm`, with a single state h."""
    net = _Network("rnn_tanh", 1, _rnn_walk("tanh"), num_layers, bidirectional, batch_first)
    return net.run_single(input, hx, params, dropout if training else 0.0)


def rnn_relu(
    input: Steps,
    hx: Tensor | None,
    params: Sequence[Tensor],
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Steps, Tensor]:
    """Run an Elman network with max(x, 0) in place of tanh; all as in `rnn_tanh`."""
    net = _Network("rnn_relu", 1, _rnn_walk("relu"), num_layers, bidirectional, batch_first)
    return net.run_single(input, hx, params, dropout if training else 0.0)


def _stacked(states: Sequence[Value]) -> Value:
    """Return states along a new first axis; a single one is not copied."""
    if len(states) == 1:
        return reshape(states[0], shape=(1, *states[0].shape))
    return ops.stack(*states)


class _Network:
    """Layers of one kind of cell, run over sequences.

    `gates` is the number of blocks of H rows in the weights, `walk` runs one layer in one
    direction, `projects` tells whether the last of its parameters projects the states."""

    def __init__(
        self, name: str, gates: int, walk: Walk, layers: int, bidirectional: bool,
        batch_first: bool, projects: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.gates, self.walk, self.layers = name, gates, walk, layers
        self.directions = 2 if bidirectional else 1
        self.batch_first, self.projects = batch_first, projects

    def run(
        self, input: Steps, hx: Sequence[Tensor] | None, states: int, params: Sequence[Tensor],
        p: float,
    ) -> tuple[Steps, list[Tensor]]:  # fmt: skip
        """Return the outputs of the last layer and each of the final states of all layers."""
        if isinstance(input, PackedSequence):
            layout = input.layout()
            self.walk = layout.walk(self.walk)
            y, last = self._batched(layout.padded(input.data), hx, states, params, p)
            return input._replace(data=layout.packed(y)), last
        if input.ndim == 2:
            states_in = None if hx is None else [h.unsqueeze(1) for h in hx]
            y, last = self._batched(input.unsqueeze(1), states_in, states, params, p)
            return y.squeeze(1), [h.squeeze(1) for h in last]
        if input.ndim != 3:
            raise ValueError(
                f"{self.name}: expected an input (T, N, I) or (T, I), got shape {input.shape}"
            )
        if not self.batch_first:
            return self._batched(input, hx, states, params, p)
        y, last = self._batched(input.transpose(0, 1), hx, states, params, p)
        return y.transpose(0, 1), last

    def run_single(
        self, input: Steps, hx: Tensor | None, params: Sequence[Tensor], p: float
    ) -> tuple[Steps, Tensor]:
        """Return what `run` does for cells with a single state."""
        y, (h,) = self.run(input, None if hx is None else (hx,), 1, params, p)
        return y, h

    def _batched(
        self, x: Any, hx: Sequence[Tensor] | None, states: int, params: Sequence[Tensor], p: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Run sequences (T, N, I): layer by layer, and within a layer each direction."""
        ways = self.layers * self.directions
        sets = self._sets(x, params, ways)
        hidden, cells = self._widths(sets[0])
        starts = self._starts(x, hx, [(ways, x.shape[1], n) for n in (hidden, cells)[:states]])
        finals: list[list[Value]] = []
        for layer in range(self.layers):
            # Dropout draws one mask for each sample, so the batch axis goes in front for it.
            if layer and p:
                x = drop(x.transpose(0, 1), p).transpose(0, 1)
            outputs = []
            for side in range(self.directions):
                way = layer * self.directions + side
                y, last = self.walk(x, starts[way], sets[way], side == 1)
                outputs.append(y)
                finals.append(last)
            x = outputs[0] if len(outputs) == 1 else cat(outputs, 2)
        return x, [_stacked(column) for column in zip(*finals, strict=True)]

    def _sets(self, x: Tensor, params: Sequence[Tensor], ways: int) -> list[Sequence[Tensor]]:
        """Return the parameters of each direction of each layer, checked."""
        many = len(params) // ways if ways else 0
        if many - self.projects not in (2, 4) or many * ways != len(params):
            raise ValueError(
                f"{self.name}: expected {2 * ways} parameters without or {4 * ways} with biases, "
                f"for {self.layers} layers in {self.directions} directions, got {len(params)}"
            )
        if not x.shape[0]:
            raise ValueError(f"{self.name}: expected at least one time step, got input {x.shape}")
        sets = [params[many * i : many * (i + 1)] for i in range(ways)]
        hidden, cells = self._widths(sets[0])
        rows = self.gates * cells
        for i, each in enumerate(sets):
            width = x.shape[2] if i < self.directions else self.directions * hidden
            biases = [(rows,)] * (many - self.projects - 2)
            projection = [(hidden, cells)] * self.projects
            expected = [(rows, width), (rows, hidden), *biases, *projection]
            shapes = [w.shape for w in each]
            if shapes != expected:
                raise ValueError(
                    f"{self.name}: expected parameters {expected} of direction {i}, got {shapes}"
                )
        return sets

    def _widths(self, params: Sequence[Tensor]) -> tuple[int, int]:
        """Return the widths of the states h and of the cells."""
        hidden = params[1].shape[-1]
        return hidden, params[-1].shape[-1] if self.projects else hidden

    def _starts(
        self, x: Tensor, hx: Sequence[Tensor] | None, shapes: Sequence[tuple[int, ...]]
    ) -> list[list[Value]]:
        """Return the states that each direction of each layer starts with."""
        if hx is None:
            zeros = [full(shape=shape[1:], dtype=x.dtype, value=0.0) for shape in shapes]
            return [zeros] * shapes[0][0]
        given = [h.shape for h in hx]
        if given != shapes:
            raise ValueError(f"{self.name}: expected states {shapes}, got {given}")
        return [[*column] for column in zip(*[ops.parts(h) for h in hx], strict=True)]
