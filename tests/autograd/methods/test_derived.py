"""Functions that are a few others: torch's results and gradients, and that they are methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd.methods import derived

CALLS: dict[str, Callable[..., Any]] = {
    "names": lambda t, x, y: t.absolute(x) - t.negative(y) * t.multiply(x, 2) + t.divide(x, y),
    "more names": lambda t, x, y: t.subtract(x, y) + t.true_divide(x, y) * x.negative(),
    "comparisons": lambda t, x, y: (
        (t.greater(x, y) | t.less_equal(x, y)) & t.not_equal(x, y) & x.less(9) & x.greater_equal(-9)
    ),
    "maximum": lambda t, x, y: t.maximum(x, y) * x.minimum(y),
    "angles": lambda t, x, y: t.deg2rad(x) + t.rad2deg(y),
    "hypot": lambda t, x, y: t.hypot(x, y),
    "logaddexp": lambda t, x, y: t.logaddexp(x * 90, y),
    "logit": lambda t, x, y: t.logit(y.sigmoid()) + t.logit(x, 0.1),
    "xlogy": lambda t, x, y: t.xlogy(x * (x > 0), y.abs()),
    "nansum": lambda t, x, y: t.nansum(y.log() + x, 1) + t.nansum(y.log()),
    "nanmean": lambda t, x, y: t.nanmean(y.log() * x, 0, True),
    "inner": lambda t, x, y: t.inner(x, y.reshape(2, 2, 3)) + t.inner(x[0], y[1]),
    "ravel": lambda t, x, y: t.ravel(x.t()) + x.narrow(1, -2, 1).sum() + t.select(y, 1, -1)[2],
    "take": lambda t, x, y: (
        t.take_along_dim(x, t.argsort(y, 1), 1) + t.take_along_dim(x, t.argsort(y, 1)).sum()
    ),
    "positions": lambda t, x, y: (
        x.argmax(1, True) + y.argmin(dim=1, keepdim=True) * x.argmax(keepdim=True)
    ),
    "spread": lambda t, x, y: x.var(0, unbiased=False) + y.std(dim=0, unbiased=True),
    "stacks": lambda t, x, y: t.vstack([x, y[0]]) @ t.hstack([x.t(), y[0].reshape(3, 1)]),
    "columns": lambda t, x, y: t.column_stack([x[:, 0], y, t.hstack([x[0], y[0, 1:2]])]),
    "depth": lambda t, x, y: (
        t.dstack([x, y]) * t.atleast_3d(x)
        + t.dstack([t.atleast_1d(x[0, 0]), x[0, :1]]).sum()
        + t.atleast_2d(y[0, 0]).sum()
    ),
    "divisions": lambda t, x, y: (
        t.div(x, y, rounding_mode="trunc") + x.div(y, rounding_mode="floor") + x.div(y)
    ),
    "whole divisions": lambda t, x, y: (
        (x * 9).long().div(t.tensor(-4), rounding_mode="trunc")
        - (x * 9).long().div(4, rounding_mode="floor")
    ),
    "bounds": lambda t, x, y: t.clamp(x, min=y) * y.clamp(x - 0.5, x + 0.5) + x.where(x > y, y),
    "spread by place": lambda t, x, y: (
        x.var(0, False) + y.std(0, False, True) + x.var(False) + t.std_mean(y, 0, False)[0]
    ),
    "numbers": lambda t, x, y: (
        x.sum().sum(0) * y.mean().mean(-1, keepdim=True) * x.max().amax(0)
        + y.sum().argmax(0)
        + t.softmax(x.sum(), 0)
        + t.log_softmax(y.mean(), -1)
    ),
    "types": lambda t, x, y: (
        (x > 0).sum(0, dtype=t.float64) * (x > 0).mean(1, dtype=t.float64).sum() * y
        + (y > 0).cumsum(1, dtype=t.float64)
        + (x.int() + 2).prod(dtype=t.float64)
        + t.softmax((x * 2).int(), 1, dtype=t.float64)
        + y.cumprod(0, dtype=t.float64)
    ),
    "usual axes": lambda t, x, y: (
        t.nn.functional.softmax(x)
        + t.nn.Softmax()(t.stack([x, y])).sum(0)
        + t.nn.functional.softmin(x[0])
        + t.nn.LogSoftmax()(y.reshape(1, 2, 2, 3)).sum()
    ),
    "of whole numbers": lambda t, x, y: (
        t.exp2((x * 3).int())
        + ((y * 3).long() ** 2).sqrt()
        + t.erf(x > 9) * t.sin((y * 3).int())
        + (x * 3).int().floor()
        + t.sigmoid((y * 0).int())
        + (x * 9).int().round()
    ),
    "logarithm at 0": lambda t, x, y: t.xlogy(x * (x > 0), y.abs() + 1) + t.xlogy(2, y.abs()),
    "squeezed": lambda t, x, y: x.reshape(1, 4, 1, 3).squeeze((0, 2)) * t.cat([t.tensor([]), y]),
    "put": lambda t, x, y: (
        x.scatter(1, t.tensor([[0], [2]]), value=0.5)
        + t.repeat_interleave(y[:2], t.tensor([3, 1]), dim=0, output_size=4)
    ),
    "broadcast": lambda t, x, y: t.concat(t.broadcast_tensors(x[:, :1], y[0])),
}


def test_functions_are_methods_too() -> None:
    assert [n for n in derived.__all__ if not callable(getattr(ag.Tensor, n, None))] == []
    assert {*derived.__all__} <= {*ag.__all__}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", CALLS)
def test_results_and_gradients_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.random.default_rng(1).standard_normal((2, 4, 3))
    results = []
    for t in (ag, torch):
        x, y = (t.tensor(n, requires_grad=True) for n in numbers)
        with np.errstate(invalid="ignore"):
            z = CALLS[name](t, x, y)
            if z.requires_grad and not name.startswith("nan"):
                (z * z).sum().backward()
        results.append([z, *(a.grad for a in (x, y) if a.grad is not None)])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), 1e-10, 1e-12)


@pytest.mark.parity
def test_extents_and_bytes_are_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine, theirs = (
        (x.nelement(), x.ndimension(), x.element_size(), x.nbytes, x.is_contiguous())
        for x in (t.zeros(4, 3, dtype=t.float64) for t in (ag, torch))
    )
    assert mine == theirs


def test_gradients_are_forgotten_by_torchs_words() -> None:
    layer = ag.nn.Linear(2, 1)
    sgd = ag.optim.SGD(layer.parameters(), 0.1)
    for forget in (layer.zero_grad, sgd.zero_grad):
        layer(ag.ones(1, 2)).sum().backward()
        assert layer.weight.grad is not None
        forget(set_to_none=False)
        assert layer.weight.grad is None


def test_sums_of_powers_at_infinity() -> None:
    inf, x = np.inf, ag.tensor([np.inf, -np.inf, 800.0, -np.inf])
    y = ag.logaddexp(x, ag.tensor([1.0, -np.inf, 800.0, 2.0]))
    np.testing.assert_allclose(y.numpy(), [inf, -inf, 800 + np.log(2), 2], rtol=1e-6)
    x, z = ag.zeros(3, requires_grad=True), ag.tensor([0.0, -1.0, np.e], requires_grad=True)
    y = ag.xlogy(x, z)
    y.sum().backward()
    assert y.tolist() == [0, 0, 0] and x.grad is not None and z.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 1], rtol=1e-6)
    assert z.grad.tolist()[1:] == [0, 0]


def test_an_angle_at_the_origin_has_gradients_of_zero() -> None:
    x, w = (ag.tensor([0.0, 1.0], requires_grad=True) for _ in range(2))
    ag.atan2(x, w).sum().backward()
    assert x.grad is not None and w.grad is not None
    assert (x.grad.tolist(), w.grad.tolist()) == ([0, 0.5], [0, -0.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.narrow(1, 2, 2), "narrow: expected start and length within 3, got 2 and 2"),
        (lambda x: x.inner(ag.ones(2)), r"inner: expected one last extent, got \(4, 3\) and \(2,"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[ag.Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ag.ones(4, 3))
