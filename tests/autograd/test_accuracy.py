"""Losses, activations and their slopes in float32, where they are small too: against formulas in
float64 that subtract nothing from what nearly equals it, for logits up to 100, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import tallygrad.autograd as ag

pytestmark = pytest.mark.usefixtures("small_kernels")

# 87 is where float32's normal numbers end: some of what is smaller is rounded to 0.
X = np.concatenate([np.linspace(-86, 86, 689), np.logspace(-30, 1, 63)]).astype(np.float32)
WIDE = np.concatenate([X, np.linspace(-100, 100, 81, dtype=np.float32)])
NEARLY = float(np.float32(0.9999999))
Formula = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def bell(x: np.ndarray) -> np.ndarray:
    """The slope of a sigmoid."""
    return sigmoid(x) * sigmoid(-x)


class Case(NamedTuple):
    """A function, its value and its derivatives in x, and where they are compared."""

    function: Callable[[ag.Tensor], ag.Tensor]
    formulas: tuple[Formula, ...]
    x: np.ndarray = X


def elu(alpha: float) -> Case:
    return Case(
        lambda x: ag.elu(x, alpha),
        (
            lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
            lambda x: np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))),
            lambda x: np.where(x >= 0, 0, alpha * np.exp(np.minimum(x, 0))),
        ),
    )


def logistic(target: float, weight: float | None = None) -> Case:
    """A binary cross entropy with logits."""
    part = target * (1 if weight is None else weight)

    def function(x: ag.Tensor) -> ag.Tensor:
        given = None if weight is None else ag.full((1,), weight)
        return ag.binary_cross_entropy_with_logits(
            x, ag.full(x.shape, target), pos_weight=given, reduction="none"
        )

    return Case(
        function,
        (
            lambda x: part * softplus(-x) + (1 - target) * softplus(x),
            lambda x: (1 - target) * sigmoid(x) - part * sigmoid(-x),
        ),
        X if 0 < target < 1 else WIDE,
    )


def of_two(function: Callable[[ag.Tensor], ag.Tensor]) -> Callable[[ag.Tensor], ag.Tensor]:
    """Return a function of logits (x, 0)."""
    return lambda x: function(ag.stack([x, ag.zeros_like(x)], 1))


def entropy(label: int) -> Callable[[ag.Tensor], ag.Tensor]:
    def function(x: ag.Tensor) -> ag.Tensor:
        return ag.cross_entropy(x, ag.tensor(np.full(len(x), label)), reduction="none")

    return of_two(function)


CASES = {
    "elu": elu(1.0),
    "elu/half": elu(0.5),
    "elu/negative": elu(-0.5),
    "sigmoid": Case(ag.sigmoid, (sigmoid,), WIDE),
    "tanh": Case(ag.tanh, (np.tanh,), WIDE),
    "softplus": Case(ag.softplus, (softplus, sigmoid), WIDE),
    "logistic/0": logistic(0.0),
    "logistic/1": logistic(1.0),
    "logistic/nearly 1": logistic(NEARLY),
    "logistic/weight": logistic(1.0, 2.0),
    "cross_entropy/0": Case(
        entropy(0), (lambda x: softplus(-x), lambda x: -sigmoid(-x), bell), WIDE
    ),
    "cross_entropy/1": Case(entropy(1), (softplus, sigmoid, bell), WIDE),
    "log_softmax": Case(
        of_two(lambda x: ag.log_softmax(x, 1)[:, 0]),
        (lambda x: -softplus(-x), lambda x: sigmoid(-x), lambda x: -bell(x)),
        WIDE,
    ),
    "softmax": Case(of_two(lambda x: ag.softmax(x, 1)[:, 0]), (sigmoid, bell), WIDE),
}


@pytest.mark.parametrize("name", CASES)
def test_small_values_keep_their_digits(name: str) -> None:
    function, formulas, numbers = CASES[name]
    x = ag.tensor(numbers, requires_grad=True)
    y = function(x)
    for order, formula in enumerate(formulas):
        if order:
            (gradient,) = ag.grad(y, x, ag.ones_like(y), create_graph=True)
            assert gradient is not None
            y = gradient
        wanted = formula(numbers.astype(np.float64))
        # Around a zero of the slope, the two outcomes' parts cancel, each of them rounded.
        least = 3e-7 if name == "logistic/nearly 1" and order else 2e-38
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-6, atol=least, err_msg=f"d{order}")


def test_first_small_values() -> None:
    def one(x: float, target: float) -> float:
        logit, wanted = (ag.tensor([v] * 300) for v in (x, target))
        return ag.binary_cross_entropy_with_logits(logit, wanted).item()

    assert one(15.0, 1.0) == pytest.approx(3.059023e-7, rel=1e-6)
    assert one(10.0, 1.0) == pytest.approx(4.5398900e-5, rel=1e-6)
    assert one(-15.0, 0.0) == pytest.approx(3.059023e-7, rel=1e-6)
    assert one(3e7, NEARLY) == pytest.approx(3.5762787, rel=1e-6)
    x = ag.tensor([-15.0, -20.0], requires_grad=True)
    ag.elu(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [3.059023e-7, 2.0611537e-9], rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 17, 130])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("place", ["first", "last", "middle"])
def test_cross_entropy_of_many_classes(size: int, smoothing: float, place: str) -> None:
    """Labels at the ends of vectors and behind them; ties of the largest logits."""
    label = {"first": 0, "last": size - 1, "middle": size // 2}[place]
    logits = np.random.default_rng(size).standard_normal((6, size)).astype(np.float32)
    logits[1:, label] += [3, 9, 14, 17, 60]
    logits[0] = 0.5
    x = ag.tensor(logits, requires_grad=True)
    y = ag.cross_entropy(x, ag.tensor([label] * 6), label_smoothing=smoothing, reduction="none")
    y.sum().backward()
    p = np.exp(logits - logits.max(1, keepdims=True).astype(np.float64))
    p /= p.sum(1, keepdims=True)
    q = np.full(size, smoothing / size)
    q[label] += 1 - smoothing
    others = np.delete(p, label, 1).sum(1)
    wanted = -(q * np.log(p)).sum(1) if smoothing else -np.log1p(-others)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=2e-6)
    slope = p - q
    if not smoothing:
        slope[:, label] = -others
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=2e-6, atol=1e-6 * smoothing)
