"""Recurrent networks: states carried on, steps and sequences alike, dropout between layers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, random
from tallygrad.autograd.ops import gru as units
from tallygrad.autograd.ops import recurrent as ops
from tallygrad.autograd.ops import recurrent_sequence as sequences

T, N, I, H = 6, 3, 4, 5  # noqa: E741


def drawn(*shape: int, seed: int = 0) -> ag.Tensor:
    numbers = np.random.default_rng((seed, *shape)).standard_normal(shape)
    return ag.tensor(numbers, requires_grad=True)


def parameters(gates: int = 4, layers: int = 1) -> list[ag.Tensor]:
    widths = [I] + [H] * (layers - 1)
    shapes = [[(gates * H, w), (gates * H, H), (gates * H,), (gates * H,)] for w in widths]
    return [drawn(*s, seed=i) for i, layer in enumerate(shapes) for s in layer]


def close(a: ag.Tensor, b: ag.Tensor) -> None:
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_states_carry_a_sequence_on() -> None:
    x, params = drawn(T, N, I), parameters(layers=2)
    whole, (h, c) = ag.lstm(x, None, params, 2)
    first, state = ag.lstm(x[:2], None, params, 2)
    second, (h2, c2) = ag.lstm(x[2:], state, params, 2)
    close(ag.cat([first, second]), whole)
    close(h2, h)
    close(c2, c)
    close(h[1], whole[-1])
    (dx,) = ag.grad(second.sum(), x)
    assert dx is not None and dx.numpy()[0].any(), "the gradient stops at the carried state"


def test_no_state_is_a_state_of_zeros() -> None:
    zeros = ag.zeros(1, N, H, dtype="float64")
    x, params = drawn(T, N, I), parameters()
    close(ag.lstm(x, None, params)[0], ag.lstm(x, (zeros, zeros), params)[0])
    for run, gates in ((ag.rnn_tanh, 1), (ag.gru, 3)):
        params = parameters(gates)
        close(run(x, None, params)[0], run(x, zeros, params)[0])


def test_cells_step_as_sequences_do() -> None:
    x, params = drawn(T, N, I), parameters()
    y, (h, c) = ag.lstm(x, None, params)
    state = (ag.zeros(N, H, dtype="float64"),) * 2
    for t in range(T):
        state = ag.lstm_cell(x[t], state, *params)
        close(state[0], y[t])
    close(state[1], c[0])
    relu = partial(ag.rnn_cell, nonlinearity="relu")
    for run, cell, gates in ((ag.rnn_relu, relu, 1), (ag.gru, ag.gru_cell, 3)):
        w = parameters(gates)
        y, h = run(x, None, w)
        one = ag.zeros(N, H, dtype="float64")
        for t in range(T):
            one = cell(x[t], one, *w)
            close(one, y[t])
        close(one, h[0])


def test_backwards_is_forwards_on_the_reversed_sequence() -> None:
    x, params = drawn(T, N, I), parameters()
    there, (h, _) = ag.lstm(x, None, [*params, *params], bidirectional=True)
    back, (g, _) = ag.lstm(x[::-1], None, params)
    close(there[:, :, H:], back[::-1])
    close(h[1], g[0])
    params = parameters(3)
    there, _ = ag.gru(x, None, [*params, *params], bidirectional=True)
    back, _ = ag.gru(x[::-1], None, params)
    close(there[:, :, H:], back[::-1])


def test_dropout_between_layers_only() -> None:
    x, params = drawn(T, N, I), parameters(layers=2)

    def run(p: float, training: bool, layers: int = 2) -> np.ndarray:
        with random.keyed(np.arange(N), 0, 0):
            given = params[: 4 * layers]
            return ag.lstm(x, None, given, layers, dropout=p, training=training)[0].numpy()

    plain = run(0.0, True)
    np.testing.assert_array_equal(run(0.5, False), plain)
    np.testing.assert_array_equal(run(0.5, True, 1), run(0.0, True, 1))
    assert not np.allclose(run(0.5, True), plain)
    np.testing.assert_array_equal(run(0.5, True), run(0.5, True))
    # With nothing let through, the second layer sees zeros.
    blind = ag.lstm(ag.zeros(T, N, H, dtype="float64"), None, params[4:])[0]
    np.testing.assert_allclose(run(1.0, True), blind.numpy())


def test_dropout_follows_the_sample_not_the_batch() -> None:
    x, params = drawn(T, N, I), parameters(layers=2)
    found = []
    for samples in (np.arange(N), np.arange(1)):
        with random.keyed(samples, 0, 0):
            y, _ = ag.lstm(x[:, : len(samples)], None, params, 2, 0.5, True)
        found.append(y.numpy()[:, 0])
    np.testing.assert_allclose(*found)


def test_the_products_of_a_sequence_are_one_call() -> None:
    with context.using(ledger=ag.Ledger()) as state:
        ag.lstm(drawn(T, N, I), None, parameters())
    products = {cost.macs: n for (*_, name, _, cost), n in state.ledger.calls.items() if cost.macs}
    assert products == {T * N * (I + H) * 4 * H: 1}


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_way_back_through_time_is_work_on_data(kind: type[nn.Module]) -> None:
    """Also in a first layer, whose inputs want no gradient: its weights take as many MACs back as
    forward, and each step but the last gets a product from the next one."""
    layer, x = kind(I, H), ag.randn(T, N, I)
    with context.using(ledger=ag.Ledger()) as state:
        layer(x)[0].sum().backward()
    macs = {phase: cost.macs for phase, cost in state.ledger.by("phase").items()}
    gates = len(layer.weight_hh_l0)
    assert macs["forward"] == macs["backward_weights"] == T * N * gates * (I + H)
    assert macs["backward_data"] == (T - 1) * N * gates * H


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("half", ["ih", "hh"])
def test_frozen_weights_of_a_gru_cost_nothing(half: str, first: bool) -> None:
    """Also in a later layer, whose inputs want a gradient. The others' gradients stay as they
    are."""
    layer, x = nn.GRU(I, H), ag.randn(T, N, I, requires_grad=not first)
    layer(x)[0].sum().backward()
    wanted = {name: p.grad.numpy() for name, p in layer.named_parameters() if half in name}
    for name, p in layer.named_parameters():
        p.requires_grad_(half in name)
        p.grad = None
    with context.using(ledger=ag.Ledger()) as state:
        layer(x)[0].sum().backward()
    found = {name: p.grad.numpy() for name, p in layer.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, y in found.items():
        np.testing.assert_allclose(y, wanted[name], rtol=1e-5, atol=1e-6)
    macs = {phase: cost.macs for phase, cost in state.ledger.by("phase").items()}
    assert macs["backward_weights"] == T * N * 3 * H * (I if half == "ih" else H)


def test_an_empty_batch() -> None:
    params = parameters()
    y, (h, _) = ag.lstm(drawn(T, 0, I), None, params)
    assert y.shape == (T, 0, H) and h.shape == (1, 0, H)
    y.sum().backward()
    assert params[0].grad is not None and not params[0].grad.numpy().any()


def test_steps_without_a_gradient_count_as_zero() -> None:
    x = drawn(3, 2)
    first, _, last = ops.unstack(3)(x)
    ag.Tensor.backward((first * 2.0 + last).sum())
    np.testing.assert_array_equal(x.grad.numpy(), [[2, 2], [0, 0], [1, 1]])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, w: ag.lstm(x, None, w[:3]),
            "expected 2 parameters without or 4 with biases, for 1 layers in 1 directions, got 3",
        ),
        (
            lambda x, w: ag.lstm(x, None, w, 3),
            "expected 6 parameters without or 12 with biases, for 3 layers .*, got 4",
        ),
        (
            lambda x, w: ag.lstm(x[0, 0], None, w),
            r"expected an input \(T, N, I\) or \(T, I\), got shape \(4,\)",
        ),
        (lambda x, w: ag.rnn_tanh(x, None, w), r"rnn_tanh: expected parameters \[\(5, 4\)"),
        (
            lambda x, w: ag.rnn_cell(x, x, *w, nonlinearity="gelu"),
            "rnn_cell: expected nonlinearity 'tanh' or 'relu', got 'gelu'",
        ),
        (lambda x, w: ops.stack(x, x[0]), r"expected equal shapes, got \[\(6, 3, 4\), \(3, 4\)\]"),
        (
            lambda x, w: ops.unstack(2)(x),
            r"unstack: expected 2 parts along the first axis, got shape \(6, 3, 4\)",
        ),
        (
            lambda x, w: sequences.rnn_sequence(
                x, w[0], w[2], drawn(N, H), w[1], nonlinearity="tanh", backwards=False
            ),
            r"rnn_sequence: expected x, w_ih, .* of \[\(6, 3, 4\), \(5, 4\), .* \(20, 5\)\]",
        ),
        (
            lambda x, w: units.gru_sequence(
                x, w[0], w[2], drawn(N, H), w[1], w[2], backwards=False
            ),
            r"gru_sequence: expected x, w_ih, .* of \[\(6, 3, 4\), \(15, 4\), .* \(15, 5\)\], got",
        ),
        (
            lambda x, w: units.gru_states(
                x, w[0][:15], w[2][:15], drawn(N, H), w[1][:15], w[2], backwards=False
            ),
            r"gru_states: expected biases of one shape, got \(15,\) and \(20,\)",
        ),
        (
            lambda x, w: sequences.lstm_sequence(
                x, w[0], w[2], drawn(N, H), x[0], w[1], backwards=False
            ),
            r"expected cells of the states' shape \(3, 5\), got \(3, 4\)",
        ),
    ],
)
def test_wrong_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(drawn(T, N, I), parameters())  # type: ignore[operator]
