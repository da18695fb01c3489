"""Activations beyond the table of samples: options, kinks and accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag

X = ag.tensor([[1.0, -2.0]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ag.gelu(X, "erf"), "gelu: expected approximate 'none' or 'tanh', got 'erf'"),
        (lambda: ag.hardtanh(X, 1, -1), "hardtanh: expected min_val <= max_val, got 1.0 and -1.0"),
        (lambda: ag.celu(X, 0.0), "celu: expected alpha > 0, got 0.0"),
        (lambda: ag.softshrink(X, -1.0), "softshrink: expected lambd >= 0, got -1.0"),
        (lambda: ag.glu(X, 2), "glu: expected an axis in [-2, 2), got 2"),
    ],
)
def test_wrong_options(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == said


@pytest.mark.parity
def test_slopes_at_kinks_are_those_of_torch(backend: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.array([-3, -1, -0.5, 0, 0.5, 1, 3, 6, np.nan] * 40)
    for name in (
        "hardtanh", "relu6", "hardsigmoid", "hardswish", "softshrink", "hardshrink", "prelu",
        "threshold",
    ):  # fmt: skip
        more = {"prelu": [0.25], "threshold": [0.5, 7.0]}.get(name, [])
        x, tx = ag.tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
        ours = [ag.tensor(v, dtype="float64") for v in more] if name == "prelu" else more
        theirs = [torch.tensor(v, dtype=torch.float64) for v in more] if name == "prelu" else more
        y, ty = getattr(ag, name)(x, *ours), getattr(torch.nn.functional, name)(tx, *theirs)
        y.sum().backward()
        ty.sum().backward()
        known = ~np.isnan(numbers)
        assert x.grad is not None and tx.grad is not None
        np.testing.assert_allclose(y.numpy(), ty.detach().numpy(), rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            x.grad.numpy()[known], tx.grad.numpy()[known], rtol=1e-6, err_msg=name
        )


def test_gelu_keeps_the_digits_of_small_results(backend: str) -> None:
    x = np.repeat(np.linspace(-12.0, 5.0, 40), 10)
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x])
    np.testing.assert_allclose(ag.gelu(ag.tensor(x)).numpy(), exact, rtol=1e-13)
    narrow = ag.gelu(ag.tensor(x, dtype="float32")).numpy()
    np.testing.assert_allclose(narrow, exact, rtol=3e-5)


def test_large_inputs(backend: str) -> None:
    x = ag.tensor(np.repeat(np.float32([-1e30, -200, 200, 1e9]), 100), requires_grad=True)
    for function in (ag.gelu, lambda x: ag.gelu(x, "tanh"), ag.silu, ag.mish, ag.hardswish):
        y = function(x)
        (dx,) = ag.grad(y, x, ag.ones_like(y))
        assert dx is not None
        assert np.allclose(y.numpy()[::100], [0, 0, 200, 1e9])
        assert np.allclose(dx.numpy()[100::100], [0, 1, 1])


def test_random_slopes() -> None:
    """Drawn in training, with their gradient, and their mean in evaluation, as in torch."""
    x = -ag.ones(2000)
    x.requires_grad_()
    layer = ag.nn.RReLU(0.1, 0.5)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None and (x.grad.numpy() == -y.numpy()).all()
    slopes = x.grad.numpy()
    assert 0.1 <= slopes.min() < 0.11 and 0.49 < slopes.max() < 0.5
    assert slopes.mean() == pytest.approx(0.3, abs=0.02)
    assert layer.eval()(ag.tensor([-1.0, 2.0])).tolist() == pytest.approx([-0.3, 2])
    with pytest.raises(ValueError, match=r"^rrelu: expected lower at most upper 0.1, got 0.2"):
        ag.rrelu(x, 0.2, 0.1)


@pytest.mark.parametrize(
    "name", ["celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu", "threshold"]
)
def test_names_of_what_works_in_place(name: str) -> None:
    more = (0.5, 7.0) if name == "threshold" else ()
    x, function = ag.tensor([-2.0, 0.25, 3.0]), getattr(ag.nn.functional, name)
    expected = function(x, *more).tolist()
    y = getattr(ag.nn.functional, f"{name}_")(x, *more)
    assert y is x and x.tolist() == expected != [-2, 0.25, 3]
