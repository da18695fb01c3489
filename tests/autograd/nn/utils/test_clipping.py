"""Clipping of gradients: as in torch, and with the same bits for any order and split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.array import array
from tallygrad.autograd.nn.utils.clipping import (
    clip_grad_norm_,
    clip_grad_value_,
    largest,
    square_sums,
)
from tallygrad.autograd.ops import clipping

SHAPES = ((3, 2), (4,), (2, 1, 2))


def parameters(dtype: str = "float64", scale: float = 1.0) -> list[nn.Parameter]:
    rng = np.random.default_rng(5)
    made = [nn.Parameter(ag.zeros(*shape, dtype=dtype)) for shape in SHAPES]
    for p in made:
        p.deliver(ag.tensor((scale * rng.standard_normal(p.shape)).astype(dtype)))
    return made


@pytest.mark.parity
@pytest.mark.parametrize("norm_type", [2.0, math.inf, "inf", 1, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_and_clipped_gradients_are_those_of_torch(norm_type: Any, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for scale, most in ((1.0, 0.5), (1.0, 100.0), (0.0, 1.0), (3.0, 0.0)):
        mine = [*parameters(dtype, scale), nn.Parameter(ag.zeros(2, dtype=dtype))]  # no gradient
        theirs = []
        for p in mine:
            theirs.append(torch.nn.Parameter(torch.tensor(p.numpy().copy())))
            theirs[-1].grad = None if p.grad is None else torch.tensor(p.grad.numpy().copy())
        given = [p.grad for p in mine[:-1]]
        total = nn.utils.get_total_norm([g for g in given if g is not None], norm_type)
        other = torch.nn.utils.clip_grad_norm_(theirs, most, norm_type)
        norm = clip_grad_norm_(mine, most, norm_type, foreach=False)
        assert (
            norm.dtype == np.dtype(dtype)
            and norm.item() == total.item()
            and norm.item() == pytest.approx(other.item(), 1e-6)
        )
        clip_grad_value_(mine, 0.2, foreach=True)
        torch.nn.utils.clip_grad_value_(theirs, 0.2)
        for p, t in zip(mine[:-1], theirs, strict=False):
            np.testing.assert_allclose(p.grad.numpy(), t.grad.numpy(), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_has_the_same_bits_for_any_order_and_split(dtype: str) -> None:
    """And is exact to a few units in the last place, however different the magnitudes."""
    rng = np.random.default_rng(0)
    numbers = (rng.standard_normal(40_000) * 10.0 ** rng.uniform(-9, 5, 40_000)).astype(dtype)

    def norm(*parts: np.ndarray) -> float:
        arrays = [array(part) for part in parts]
        sums = square_sums(arrays, largest(arrays), numbers.size)
        return float(clipping.norm_of(sums).value)

    whole = norm(numbers)
    exact = math.sqrt(math.fsum(np.square(numbers.astype(np.float64)).tolist()))
    assert whole == pytest.approx(exact, rel=1e-15)
    for cuts in ([1], [7, 7, 30_000], [16_385], [39_999]):
        assert norm(*np.split(rng.permutation(numbers), cuts)) == whole
    assert norm(numbers.reshape(200, 200).T) == whole
    added = [math.sqrt(sum(float(x) ** 2 for x in rng.permutation(numbers))) for _ in range(4)]
    assert len({*added}) > 1  # which is why


@pytest.mark.parametrize(("numbers", "norm"), [
    ([0.0, 0.0], 0.0), ([3e-30, 4e-30], 5e-30), ([3e30, 4e30], 5e30), ([np.inf, 1], np.inf),
    ([np.nan, 1], np.nan), ([np.nan, np.inf], np.nan), ([1e200, 1], np.inf),
])  # fmt: skip
def test_special_values(numbers: list[float], norm: float) -> None:
    p = nn.Parameter(ag.zeros(2, dtype="float64"))
    p.deliver(ag.tensor(np.array(numbers)))
    with np.errstate(invalid="ignore"):
        found = clip_grad_norm_(p, 1.0).item()
    assert found == pytest.approx(norm, rel=1e-15, nan_ok=True)
    if not math.isfinite(norm):
        with pytest.raises(RuntimeError, match="expected a finite norm, got"):
            p.deliver(ag.tensor(np.array(numbers)))
            p.grad = ag.tensor(np.array(numbers))
            clip_grad_norm_([p], 1.0, error_if_nonfinite=True)


def test_nothing_to_clip() -> None:
    assert clip_grad_norm_([nn.Parameter(ag.ones(2))], 1.0, "inf").item() == 0.0
    clip_grad_value_([nn.Parameter(ag.ones(2))], 1.0)


@pytest.mark.parametrize(("call", "said"), [
    (lambda p: clip_grad_norm_(p, -1.0), "expected max_norm of at least 0, got -1.0"),
    (lambda p: clip_grad_norm_(p, math.nan), "expected max_norm of at least 0, got nan"),
    (lambda p: nn.utils.clip_grads_with_norm_(p, -1.0, ag.ones()), "expected max_norm of at least"),
    (lambda p: clip_grad_value_(p, -0.5), "clip_grad_value_: expected clip_value of at least 0"),
])  # fmt: skip
def test_what_cannot_be_clipped_to(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(parameters())


def test_the_ledger_counts_it_on_meta_too() -> None:
    rows = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend, ledger=ag.Ledger()):
            made = [nn.Parameter(ag.zeros(3, 4)), nn.Parameter(ag.zeros(5))]
            for p in made:
                p.deliver(ag.ones(*p.shape))
            with context.using(ledger=ag.Ledger()) as state:
                clip_grad_norm_(made, 1.0)
                clip_grad_value_(made, 1.0)
        rows.append([(r.key.primitive, r.calls, r.cost) for r in state.ledger])
        total = state.ledger.total()
        assert total.mul == 2 * 17 and total.cmp == 4 * 17 + 2 and total.add == 8 * 17 + 2 * 2 + 1
    assert rows[0] == rows[1]
