"""Rows for recurrent networks; the sequence rows give outputs and final states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import recurrent as fn
from ...tensor import Tensor
from .sample import Sample, distinct, normal

N, I, H, T = 3, 4, 2, 5  # noqa: E741
Draw = Callable[[np.random.Generator], Any]


def _cell(gates: int, biases: bool = True) -> tuple[Draw, ...]:
    shapes = [(gates * H, I), (gates * H, H)] + [(gates * H,)] * (2 * biases)
    return tuple(normal(*shape) for shape in shapes)


def _params(gates: int, layers: int, directions: int, biases: bool) -> tuple[Draw, ...]:
    """Return generators for the parameters of layers and directions, in torch's order."""
    inputs = []
    for layer in range(layers):
        width = directions * H if layer else I
        for _ in range(directions):
            shapes = [(gates * H, width), (gates * H, H)] + [(gates * H,)] * (2 * biases)
            inputs += [normal(*shape) for shape in shapes]
    return tuple(inputs)


def _lstm_row(
    name: str, layers: int = 1, directions: int = 1, biases: bool = True, first: bool = False
) -> Sample:
    """Return the row of one way to run an LSTM."""
    options = {"num_layers": layers, "bidirectional": directions == 2, "batch_first": first}

    def ours(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        y, (h, c) = fn.lstm(x, (h, c), params, **options)  # type: ignore[arg-type]
        return y, h, c

    def theirs(t: Any, x: Any, h: Any, c: Any, *params: Any) -> tuple[Any, ...]:
        sizes = (layers, 0.0, False, directions == 2, first)
        return tuple(t.lstm(x, (h, c), [*params], biases, *sizes))

    ways = layers * directions
    state = normal(ways, N, H)
    x = normal(N, T, I) if first else normal(T, N, I)
    # A step multiplies N states by 4 H x H, and N inputs by 4 H x their width.
    widths = [I] + [directions * H] * (layers - 1)
    macs = sum(directions * T * N * 4 * H * (width + H) for width in widths)
    inputs = (x, state, state, *_params(4, layers, directions, biases))
    return Sample(f"lstm/{name}", ours, inputs, theirs, macs=macs)


def _rnn_row(
    name: str, kind: str, layers: int = 1, directions: int = 1, gates: int = 1, biases: bool = True
) -> Sample:
    """Return the row of one way to run a network with a single state."""
    function = getattr(fn, kind)

    def ours(x: Tensor, h: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        y, h = function(x, h, params, layers, bidirectional=directions == 2)
        return y, h

    def theirs(t: Any, x: Any, h: Any, *params: Any) -> tuple[Any, ...]:
        sizes = (layers, 0.0, False, directions == 2, False)
        return tuple(getattr(t, kind)(x, h, [*params], biases, *sizes))

    inputs = (
        normal(T, N, I),
        normal(layers * directions, N, H),
        *_params(gates, layers, directions, biases),
    )
    widths = [I] + [directions * H] * (layers - 1)
    macs = sum(directions * T * N * gates * H * (width + H) for width in widths)
    return Sample(f"{kind}/{name}", ours, inputs, theirs, macs=macs)


def _lstm_cell(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
    return fn.lstm_cell(x, (h, c), *params)


def _alone(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
    y, states = fn.lstm(x, (h, c), params)
    return y, *states


STATE = normal(N, H)
ROWS = [
    Sample(
        "rnn_cell",
        fn.rnn_cell,
        (normal(N, I), STATE, *_cell(1)),
        lambda t, *args: t.rnn_tanh_cell(*args),
        macs=N * (I + H) * H,
    ),
    Sample(
        "rnn_cell/relu",
        lambda x, h, a, b, c, d: fn.rnn_cell(x, h, a, b, c, d, nonlinearity="relu"),
        (distinct(N, I), STATE, *_cell(1)),
        lambda t, *args: t.rnn_relu_cell(*args),
        macs=N * (I + H) * H,
    ),
    Sample(
        "rnn_cell/no bias",
        fn.rnn_cell,
        (normal(N, I), STATE, *_cell(1, biases=False)),
        lambda t, *args: t.rnn_tanh_cell(*args),
        macs=N * (I + H) * H,
    ),
    Sample(
        "lstm_cell",
        _lstm_cell,
        (normal(N, I), STATE, STATE, *_cell(4)),
        lambda t, x, h, c, *params: t.lstm_cell(x, (h, c), *params),
        macs=N * (I + H) * 4 * H,
        wrong=(
            (
                "expected gates (N, 4 H) and cells (N, H), got (3, 8) and (3, 7)",
                ((3, 4), (3, 2), (3, 7), (8, 4), (8, 2), (8,), (8,)),
            ),
        ),
    ),
    Sample(
        "lstm_cell/large",
        lambda x, h, c, *params: _lstm_cell(x * 1e3, h, c, *params),
        (normal(N, I), STATE, STATE, *_cell(4)),
        lambda t, x, h, c, *params: t.lstm_cell(x * 1e3, (h, c), *params),
        macs=N * (I + H) * 4 * H,
    ),
    _lstm_row("one layer"),
    _lstm_row("no bias", biases=False),
    _lstm_row("batch first, two layers", layers=2, first=True),
    _lstm_row("two layers, both ways", layers=2, directions=2),
    Sample(
        "lstm/one sequence",
        _alone,
        (normal(T, I), normal(1, H), normal(1, H), *_cell(4)),
        lambda t, x, h, c, *params: tuple(
            y.squeeze(1)
            for y in t.lstm(
                x[:, None], (h[:, None], c[:, None]), [*params], True, 1, 0.0, False, False, False
            )
        ),
        macs=T * (I + H) * 4 * H,
        wrong=(
            (
                "expected states [(1, 1, 2), (1, 1, 2)], got [(1, 1, 3), (1, 1, 2)]",
                ((5, 4), (1, 3), (1, 2), (8, 4), (8, 2), (8,), (8,)),
            ),
            (
                "expected parameters [(8, 4), (8, 2), (8,), (8,)] of direction 0, got [(8, 5), ",
                ((5, 4), (1, 2), (1, 2), (8, 5), (8, 2), (8,), (8,)),
            ),
            (
                "expected at least one time step, got input (0, 1, 4)",
                ((0, 4), (1, 2), (1, 2), (8, 4), (8, 2), (8,), (8,)),
            ),
        ),
    ),
    Sample(
        "gru_cell",
        fn.gru_cell,
        (normal(N, I), STATE, *_cell(3)),
        lambda t, *args: t.gru_cell(*args),
        macs=N * (I + H) * 3 * H,
        wrong=(
            (
                "expected states (N, H) and gates (N, 3 H), got (3, 2), (3, 8) and (3, 8)",
                ((3, 4), (3, 2), (8, 4), (8, 2), (8,), (8,)),
            ),
        ),
    ),
    _rnn_row("one layer, no bias", "gru", gates=3, biases=False),
    _rnn_row("two layers, both ways", "gru", 2, 2, gates=3),
    _rnn_row("one layer", "rnn_tanh"),
    _rnn_row("two layers, both ways", "rnn_tanh", 2, 2),
    _rnn_row("two layers", "rnn_relu", 2),
]
