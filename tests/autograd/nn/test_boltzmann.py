"""Restricted Boltzmann machines: energies and draws against what counting all states gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

V, H = 4, 3
STATES = np.array([*product([0.0, 1.0], repeat=V)])


def machine() -> nn.RestrictedBoltzmannMachine:
    rbm, draw = nn.RestrictedBoltzmannMachine(V, H, dtype="float64"), np.random.default_rng(0)
    for p in rbm.parameters():
        p.array.write(draw.normal(0, 1, p.shape))
    return rbm


def counted(rbm: nn.RestrictedBoltzmannMachine) -> np.ndarray:
    """Return the sum over all h of exp(-energy) for each v."""
    w, b, c = (p.numpy() for p in rbm.parameters())
    hidden = np.array([*product([0.0, 1.0], repeat=H)])
    return np.exp(hidden @ w @ STATES.T + (hidden @ c)[:, None] + STATES @ b).sum(0)


def test_the_free_energy_is_that_of_all_hidden_states() -> None:
    rbm = machine()
    energies = rbm.free_energy(ag.tensor(STATES)).numpy()
    np.testing.assert_allclose(np.exp(-energies), counted(rbm), rtol=1e-12)


def test_long_chains_draw_each_state_as_often_as_its_probability_says() -> None:
    rbm = machine()
    ag.manual_seed(3)
    drawn = rbm.gibbs(ag.zeros(20_000, V, dtype="float64"), 30)
    assert not drawn.requires_grad
    found = np.bincount((drawn.numpy() @ [8, 4, 2, 1]).astype(int), minlength=16) / 20_000
    expected = counted(rbm)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.01)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_gradient_is_that_of_contrastive_divergence(persistent: bool) -> None:
    rbm, v = machine(), ag.tensor(STATES[[3, 9, 12]])
    start = ag.tensor(STATES[[0, 15]]) if persistent else None
    ag.manual_seed(5)
    rbm(v, 2, start).backward()
    ag.manual_seed(5)
    drawn = rbm.gibbs(v if start is None else start, 2)
    before, after = (rbm.hidden_given(x).numpy().T @ x.numpy() / len(x) for x in (v, drawn))
    assert rbm.weight.grad is not None and rbm.visible_bias.grad is not None
    np.testing.assert_allclose(rbm.weight.grad.numpy(), after - before, rtol=1e-9, atol=1e-12)
    means = drawn.numpy().mean(0) - v.numpy().mean(0)
    np.testing.assert_allclose(rbm.visible_bias.grad.numpy(), means, rtol=1e-9, atol=1e-12)


def test_no_step_is_too_few() -> None:
    with pytest.raises(ValueError, match="gibbs: expected at least 1 step, got 0"):
        machine()(ag.tensor(STATES), 0)
