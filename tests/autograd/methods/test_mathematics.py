"""Functions of numbers at their edges: integers, truth values, what is no number, zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd.methods import mathematics, reducing

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -2.5, 7.5, 3.0]
WHOLE = [7, -7, 0, 3, -2, 5, 1]


def test_functions_are_methods_too() -> None:
    names = [*mathematics.__all__, *reducing.__all__]
    assert [n for n in names if not callable(getattr(ag.Tensor, n, None))] == []
    assert {*names} <= {*ag.__all__}


CALLS: dict[str, Callable[..., Any]] = {
    "isnan": lambda t, x, w: t.isnan(x),
    "isinf": lambda t, x, w: t.isinf(x),
    "isfinite": lambda t, x, w: t.isfinite(x),
    "logical_not": lambda t, x, w: t.logical_not(x),
    "logical_and": lambda t, x, w: t.logical_and(x, w),
    "logical_or": lambda t, x, w: t.logical_or(x, w),
    "logical_xor": lambda t, x, w: x.logical_xor(w),
    "comparisons": lambda t, x, w: t.eq(x, w) ^ t.lt(x, w) ^ t.ge(x, w) ^ t.ne(x, 3),
    "count_nonzero": lambda t, x, w: t.count_nonzero(x),
    "sign": lambda t, x, w: t.sign(x),
    "remainder": lambda t, x, w: t.remainder(x, w) + x % 3 + 3 % w,
    "fmod": lambda t, x, w: t.fmod(x, w),
    "floor_divide": lambda t, x, w: t.floor_divide(x, w) + x // 3 + 3 // w,
    "cumsum": lambda t, x, w: t.cumsum(x, 0),
    "cumprod": lambda t, x, w: t.cumprod(w, 0),
    "add": lambda t, x, w: t.add(x, w, alpha=3) - t.sub(x, 2, alpha=2),
    "isclose": lambda t, x, w: t.isclose(x, w, equal_nan=True) & t.isclose(x, x),
    "amax": lambda t, x, w: t.amax(x, 0) + t.amin(x, 0),
    "median": lambda t, x, w: t.median(x),
    "max": lambda t, x, w: t.max(x, 0)[1] + x.min(0).indices,
    "maximum": lambda t, x, w: t.max(x, w) + t.min(x, w) - t.max(w),
    "nan_to_num": lambda t, x, w: t.nan_to_num(x, 1.0) - t.nan_to_num(x, posinf=9.0, neginf=-9.0),
    "histc": lambda t, x, w: t.histc(w.float(), 3, 0, 5) * t.histc(w[-2:].float(), 3),
    "round": lambda t, x, w: (
        t.round(x * 1.255, decimals=1) + t.dist(w[-2:] * 1.0, w[-2:] * 2.0, 3.0)
    ),
    "types": lambda t, x, w: x.bool().int() + w.long().type_as(x).expand_as(x).contiguous().cpu(),
    "reshaped": lambda t, x, w: t.flatten(t.reshape(x, (7, 1)).t().view_as(x.reshape(1, 7)).T),
    "square": lambda t, x, w: t.square(x) - t.neg(w),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("numbers", [SPECIAL, WHOLE], ids=["floats", "integers"])
def test_results_and_types_are_those_of_torch(name: str, numbers: list[Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w = numbers, numbers[-1:] + [n or 4 for n in numbers[:-1]]
    with np.errstate(all="ignore"):
        ours = CALLS[name](ag, ag.tensor(x), ag.tensor(w))
    theirs = CALLS[name](torch, torch.tensor(x), torch.tensor(w))
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


def test_division_by_zero() -> None:
    x = ag.tensor([1, 2])
    for call in (lambda: x % 0, lambda: x // ag.tensor([1, 0]), lambda: ag.fmod(x, 0)):
        with pytest.raises(
            ZeroDivisionError, match=r"^\w+: expected integers other than 0 to divide by, got 0$"
        ):
            call()
    assert np.isnan((ag.ones(1) % 0.0).item())


def test_comparisons_of_whole_tensors() -> None:
    x, z = ag.tensor([1.0, np.nan]), ag.tensor([1.0 + 1e-7, np.nan])
    assert ag.allclose(x, z, equal_nan=True) and not ag.allclose(x, z)
    assert not ag.allclose(x[:1], x[:1] * 1.1) and ag.allclose(x[:1], x[:1] * 1.1, rtol=0.2)
    assert ag.equal(x[:1], ag.ones(1)) and not ag.equal(x, x) and not ag.equal(ag.ones(2), x[:1])


def test_a_product_of_zeros_has_a_gradient() -> None:
    for zeros in ([], [1], [0, 2]):
        numbers = np.array([2.0, -3.0, 0.5, 4.0])
        numbers[zeros] = 0
        x = ag.tensor(numbers, requires_grad=True)
        rate = np.array([1.0, -2.0, 3.0, 0.5])
        (dx,) = ag.grad(x.cumprod(0), x, ag.tensor(rate))
        # The products are linear in each factor.
        expected = [
            (rate * (np.cumprod(np.where(np.arange(4) == i, 1, numbers)))
             - rate * (np.cumprod(np.where(np.arange(4) == i, 0, numbers)))).sum()
            for i in range(4)
        ]  # fmt: skip
        assert dx is not None
        np.testing.assert_allclose(dx.numpy(), expected)


def test_running_sums_keep_their_digits() -> None:
    y = ag.full(1 << 20, 0.1).cumsum(0)
    exact = np.float64(np.float32(0.1)) * (1 << 20)
    assert y.dtype == np.float32 and y.numpy()[-1] == np.float32(exact)


def test_sums_of_powers_at_infinity() -> None:
    rows = [[np.inf, 0, 1], [-np.inf] * 3, [np.nan, 0, 0], [-np.inf, 0, -20], [1e4, 1e4, -1e4]]
    y = ag.logsumexp(ag.tensor(rows, dtype="float64"), 1)
    expected = [np.inf, -np.inf, np.nan, np.log1p(np.exp(-20)), 1e4 + np.log(2)]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    assert ag.logsumexp(ag.zeros(0, 2), 0).tolist() == [-np.inf] * 2


@pytest.mark.parametrize("shape", [(65,), (3, 777), (777, 3), (2, 130, 5), (70, 2, 200)])
def test_reductions_over_axes_longer_than_a_block_of_sums(
    shape: tuple[int, ...], backend: str
) -> None:
    numbers = np.random.default_rng(0).normal(size=shape)
    for axis in [*range(-len(shape), len(shape))]:
        x = ag.tensor(numbers, requires_grad=True)
        total = np.log(np.exp(numbers).sum(axis))
        power = np.exp(numbers) / np.exp(numbers).sum(axis, keepdims=True)
        y = ag.logsumexp(x, axis)
        y.sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(y.numpy(), total)
        np.testing.assert_allclose(x.grad.numpy(), power, rtol=1e-6)
        np.testing.assert_allclose(ag.softmax(x, axis).numpy(), power)
        np.testing.assert_allclose(ag.log_softmax(x, axis).numpy(), np.log(power), atol=1e-12)
        for name in ("sum", "mean", "std", "prod", "amax", "amin", "cumsum", "norm"):
            ours = getattr(ag, name)(x, dim=axis).numpy()
            options = {"ddof": 1} if name == "std" else {}
            theirs = np.linalg.norm if name == "norm" else getattr(np, name)
            np.testing.assert_allclose(ours, theirs(numbers, axis=axis, **options), rtol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_the_most_frequent_values_are_torchs(dim: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.random.default_rng(dim + 1).integers(0, 4, (5, 7, 6)).astype(np.float32)
    x = ag.tensor(numbers, requires_grad=True)
    y, t = x.mode(dim, True), torch.tensor(numbers).mode(dim, True)
    np.testing.assert_array_equal(y.values.detach().numpy(), t.values.numpy())
    np.testing.assert_array_equal(y.indices.numpy(), t.indices.numpy())
    y.values.sum().backward()
    assert x.grad is not None and x.grad.sum().item() == y.values.numel()
    assert ag.mode(ag.tensor(3)).values.item() == 3
    with pytest.raises(ValueError, match="mode: expected elements along axis 0, got shape"):
        ag.zeros(0).mode(0)


def test_median_of_few_elements() -> None:
    with pytest.raises(ValueError, match=r"^median: expected elements along axis 0, got shape "):
        ag.zeros(0).median()
    assert ag.tensor(3.0).median(0).indices.item() == 0
    assert ag.tensor([4.0, 1.0, 3.0, 2.0]).median().item() == 2


def test_bounds_of_a_histogram() -> None:
    with pytest.raises(
        ValueError, match=r"^histc: expected bins > 0 and min <= max, got 0, 2 and "
    ):
        ag.histc(ag.ones(3), 0, 2, 1)
    assert ag.histc(ag.ones(3), 2).tolist() == [0, 3]  # from 0 to 2


def test_steps_have_no_slope() -> None:
    x = ag.tensor([2.5, -1.5], requires_grad=True)
    y = x.floor() + x.round() + x // 2.0 + x.sign()
    (dx,) = ag.grad(y, x, ag.ones(2))
    assert dx is not None and not dx.numpy().any()
