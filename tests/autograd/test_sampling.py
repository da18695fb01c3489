"""Random numbers: their distributions, their seed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context

W = [0.1, 0.0, 0.6, 0.3]
DRAWS: dict[str, Callable[[], ag.Tensor]] = {
    "randint": lambda: ag.randint(3, (4, 5)),
    "randint/bounds": lambda: ag.randint(-3, 3, (4, 5), dtype="int32"),
    "randperm": lambda: ag.randperm(50),
    "bernoulli": lambda: ag.bernoulli(ag.full((4, 5), 0.5)),
    "multinomial": lambda: ag.multinomial(ag.tensor([W, W]), 2),
    "multinomial/replacement": lambda: ag.multinomial(ag.tensor(W), 9, replacement=True),
    "normal": lambda: ag.normal(ag.zeros(3, 1), ag.ones(4)),
    "normal/size": lambda: ag.normal(0.0, 2.0, (2, 3)),
    "rand_like": lambda: ag.rand_like(ag.zeros(4, dtype="float64")),
    "randn_like": lambda: ag.randn_like(ag.zeros(4, dtype="int64"), dtype="float32"),
    "gumbel_softmax": lambda: ag.gumbel_softmax(ag.zeros(3, 4)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_seeds_shapes_and_types(name: str) -> None:
    found = []
    for seed in (1, 1, 2):
        ag.manual_seed(seed)
        found.append(DRAWS[name]())
    first, again, other = (x.numpy() for x in found)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with context.using(backend="meta"):
        assert DRAWS[name]().spec == found[0].spec


def test_distributions() -> None:
    ag.manual_seed(0)
    x = ag.randint(2, 5, (3000,)).numpy()
    assert {*x.tolist()} == {2, 3, 4} and abs(x.mean() - 3) < 0.1
    assert sorted(ag.randperm(9).tolist()) == [*range(9)]
    rates = ag.tensor([[0.0, 0.25, 1.0]] * 4000)
    np.testing.assert_allclose(ag.bernoulli(rates).mean(0).numpy(), [0, 0.25, 1], atol=0.03)
    y = ag.normal(ag.tensor([5.0, -5.0]), 0.5) - ag.tensor([5.0, -5.0])
    assert (np.abs(y.numpy()) < 3).all()
    drawn = ag.multinomial(ag.tensor(W), 8000, replacement=True)
    np.testing.assert_allclose(np.bincount(drawn.numpy()) / 8000, W, atol=0.02)
    rows = ag.multinomial(ag.tensor([W] * 4000), 2).numpy()
    assert (rows[:, 0] != rows[:, 1]).all() and 1 not in rows
    np.testing.assert_allclose(np.bincount(rows[:, 0]) / 4000, W, atol=0.03)


def test_a_hard_choice_has_the_gradient_of_a_soft_one() -> None:
    x = ag.zeros(500, 3, requires_grad=True)
    y = ag.gumbel_softmax(x + ag.tensor([0.0, 0.0, 2.0]), 0.5, hard=True)
    np.testing.assert_allclose(np.sort(y.numpy(), 1), [[0, 0, 1]] * 500, atol=1e-6)
    np.testing.assert_allclose(y.mean(0).numpy(), np.exp([0, 0, 2]) / (2 + np.e**2), atol=0.07)
    (dx,) = ag.grad(y[:, 0].sum(), x)
    assert dx is not None and (dx.numpy()[:, 0] > 0).any() and (dx.numpy()[:, 2] <= 0).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ag.randint(3, 3, (1,)), "randint: expected low < high, got 3 and 3"),
        (
            lambda: ag.bernoulli(ag.tensor([0.5, 1.5])),
            "bernoulli: expected probabilities in [0, 1], got 1.5",
        ),
        (
            lambda: ag.multinomial(ag.ones(1, 1, 1), 1),
            "multinomial: expected weights (N, C) or (C,), got (1, 1, 1)",
        ),
        (lambda: ag.multinomial(ag.tensor(W), 4), "multinomial: expected 4 weights above 0, got 3"),
        (
            lambda: ag.multinomial(-ag.ones(2), 1),
            "multinomial: expected finite weights of at least 0, got others",
        ),
    ],
)
def test_wrong_numbers(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == said


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"^bernoulli: expected floating-point numbers, got int64$"):
        ag.bernoulli(ag.tensor([1]))
    for more, said in (((), "neither"), ((ag.ones(2), 3), "both")):
        with pytest.raises(TypeError, match=rf"^normal: expected tensors or a size, got {said}$"):
            ag.normal(0.0, *more)
