"""Numbers drawn: the ends of their range, for every type; seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn, random

TYPES = ["float16", "float32", "float64"]


class Greatest(np.random.Generator):
    """Draws nothing but the number nearest to the upper end, which it may round up to."""

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:  # type: ignore[override]
        return np.full(shape, low + (high - low) * np.nextafter(1.0, 0.0))


def test_rand_stays_below_1() -> None:
    ag.manual_seed(0)
    last = ag.rand(4853087).numpy()[-1]
    assert last == np.nextafter(np.float32(1), np.float32(0))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("draw", "high"),
    [
        (lambda t: nn.init.uniform_(t), 1.0),
        (lambda t: nn.init.uniform_(t, -3.0, -1.0), -1.0),
        (lambda t: nn.init.uniform_(t, -1.0, 0.1), 0.1),
        (lambda t: nn.init.uniform_(t, 0.0, 1e-3), 1e-3),
        (lambda t: nn.init.kaiming_uniform_(t), 3.0**0.5 * (2 / 5) ** 0.5),
    ],
)
def test_no_draw_gives_the_upper_end(
    draw: Callable[[ag.Tensor], ag.Tensor],
    high: float,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random.DEFAULT, "numbers", Greatest(np.random.Philox(0)))
    end = np.asarray(high, dtype)
    drawn = draw(ag.zeros(4, 5, dtype=dtype)).numpy()
    assert drawn.dtype == dtype
    assert (drawn < end).all()
    np.testing.assert_allclose(drawn, end, rtol=2e-3)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_range_of_one_number(dtype: str) -> None:
    drawn = nn.init.uniform_(ag.zeros(3, dtype=dtype), 0.5, 0.5)
    assert (drawn.numpy() == 0.5).all()


@pytest.mark.parametrize("make", [ag.rand, ag.randn])
@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_only_floating_point_numbers_are_drawn(make: Callable[..., ag.Tensor], dtype: str) -> None:
    with pytest.raises(TypeError, match=f"expected a floating-point type, got {dtype}"):
        make(3, dtype=dtype)


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_a_seed_is_an_integer_from_0_up(seed: Any) -> None:
    with pytest.raises(ValueError, match=f"^manual_seed: .* at least 0, got {seed!r}$"):
        ag.manual_seed(seed)


DRAWS: tuple[Callable[[], ag.Tensor], ...] = (
    lambda: ag.randn(3),
    lambda: ag.rand_like(ag.zeros(3)),
    lambda: ag.randint(1 << 30, 3),
    lambda: ag.gumbel_softmax(ag.zeros(3)),
)


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_of_a_step_are_keyed(draw: Callable[[], ag.Tensor]) -> None:
    """They depend on seed, step and samples, not on what was drawn before."""

    def drawn(first: int, seed: int, step: int) -> list[float]:
        with random.keyed(np.arange(first, 9), seed, step):
            return [*draw().tolist(), *draw().tolist()]

    found = drawn(0, 1, 2)
    before = random.numbers_of().bit_generator.state
    assert drawn(0, 1, 2) == found and found[:3] != found[3:]
    assert random.numbers_of().bit_generator.state["state"]["counter"].tolist() == (
        before["state"]["counter"].tolist()
    )
    others = [drawn(*changed) for changed in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert len({tuple(values) for values in (found, *others)}) == 4


def test_draws_of_a_step_are_repeated_by_a_checkpoint() -> None:
    x = ag.ones(5, requires_grad=True)
    with random.keyed(np.arange(5), 0, 0):
        y = ag.checkpoint(lambda x: x * ag.randn(5), x)
        after = ag.randn(5).tolist()
        y.sum().backward()
        assert after != ag.randn(5).tolist()
    np.testing.assert_array_equal(y.numpy(), x.grad.numpy())
