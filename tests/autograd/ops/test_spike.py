"""Spikes: a step whose gradients are those of a smooth function, and neurons that integrate."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn

X = np.array([-2.0, -0.1, 0.0, 1e-9, 0.3, 4.0])


def smooth(x: ag.Tensor) -> ag.Tensor:
    return x / (1 + 7 * x.abs())


def test_a_spike_is_a_step() -> None:
    np.testing.assert_array_equal(ag.spike(ag.tensor(X)).numpy(), [0, 0, 0, 1, 1, 1])


def test_gradients_are_those_of_the_fast_sigmoid() -> None:
    found = []
    for function in (lambda x: ag.spike(x, 7.0), smooth):
        x = ag.tensor(X[X != 0], requires_grad=True)
        dy = ag.tensor(np.arange(1.0, 6.0), requires_grad=True)
        (dx,) = ag.grad(function(x), x, dy, create_graph=True)
        assert dx is not None
        found.append([dx, *ag.grad((dx * dx).sum(), [x, dy])])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9)


def test_neurons_integrate_leak_and_fire() -> None:
    draw = np.random.default_rng(0)
    x = ag.tensor(draw.uniform(0, 1.2, (6, 3, 4)), requires_grad=True)
    spikes = nn.LIF(leak=0.8, threshold=0.9)(x)
    v, before = np.zeros((3, 4)), np.zeros((3, 4))
    for current, fired in zip(x.numpy(), spikes.numpy(), strict=True):
        v = 0.8 * v + current - 0.9 * before
        before = (v > 0.9).astype(float)
        np.testing.assert_array_equal(fired, before)
    assert 0 < spikes.numpy().mean() < 1
    spikes[-1].sum().backward()
    assert x.grad is not None and x.grad.numpy().all(), "the last spike hangs on all steps"


def test_shapes_alone_give_the_same_ledger() -> None:
    ledgers = []
    for backend in "numpy", "meta":
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            nn.LIF()(ag.rand(4, 2, 3, requires_grad=True)).sum().backward()
        ledgers.append(state.ledger)
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ag.spike(ag.ones(2), -1.0), "spike: expected a slope of at least 0, got -1.0"),
        (lambda: nn.LIF(1.5), r"LIF: expected a leak in \[0, 1\], got 1.5"),
        (lambda: nn.LIF(threshold=0.0), "LIF: expected a threshold above 0, got 0.0"),
        (lambda: nn.LIF()(ag.zeros(0, 2)), r"LIF: expected currents \(T, ..\) .*, got \(0, 2\)"),
    ],
)
def test_wrong_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
