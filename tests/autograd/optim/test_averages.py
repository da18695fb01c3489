"""Averages of weights that go along with an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, optim
from tallygrad.autograd.optim import EMA, SGD, Falling, Lookahead, Optimizer

SHAPES = ((3, 2), (4,))


def weights() -> list[nn.Parameter]:
    rng = np.random.default_rng(3)
    return [nn.Parameter(ag.tensor(rng.standard_normal(s))) for s in SHAPES]


def train(parameters: list[nn.Parameter], optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        rng = np.random.default_rng(step)
        for p in parameters:
            p.deliver(ag.tensor(rng.standard_normal(p.shape)))
        optimizer.step()
        optimizer.zero_grad()


def flat(parameters: list[nn.Parameter]) -> Any:
    return np.concatenate([p.numpy().ravel() for p in parameters])


def course(each: Callable[[Any, int], Any]) -> list[Any]:
    """Return the weights after each of seven steps of descent, where `each` changes them."""
    w, found = flat(weights()), []
    for step in range(7):
        rng = np.random.default_rng(step)
        w = w - 0.1 * np.concatenate([rng.standard_normal(s).ravel() for s in SHAPES])
        w = each(w, step + 1)
        found.append(w)
    return found


def test_the_moving_average_follows_its_formula() -> None:
    average = flat(weights())
    for t, w in enumerate(course(lambda w, t: w), 1):
        average = average + (1 - min(0.25, (1 + t) / (10 + t))) * (w - average)
    mine = weights()
    optimizer = SGD(mine, 0.1).add(EMA(0.25))
    train(mine, optimizer, 0, 7)
    last = flat(mine)
    np.testing.assert_allclose(last, course(lambda w, t: w)[-1], rtol=1e-13)
    with optimizer.averaged():
        np.testing.assert_allclose(flat(mine), average, rtol=1e-13)
    np.testing.assert_array_equal(flat(mine), last)
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    np.testing.assert_array_equal(flat(mine), last)


@pytest.mark.parametrize(("alpha", "shares"), [
    (0.4, {3: 0.4, 6: 0.4}),
    (Falling(0.25, 6, 2.0), {3: 1 - 0.75 / 4, 6: 0.25}),
], ids=["number", "falling"])  # fmt: skip
def test_lookahead_follows_its_formula(alpha: Any, shares: dict[int, float]) -> None:
    slow = flat(weights())

    def each(w: Any, t: int) -> Any:
        nonlocal slow
        if t % 3:
            return w
        slow = slow + shares[t] * (w - slow)
        return slow

    mine = weights()
    train(mine, SGD(mine, 0.1).add(Lookahead(3, alpha)), 0, 7)
    np.testing.assert_allclose(flat(mine), course(each)[-1], rtol=1e-13)


def test_averages_begin_with_the_weights_of_the_first_step() -> None:
    """Which may have been loaded after the optimizer was made."""
    mine = weights()
    optimizer = SGD(mine, 0.1).add(Lookahead(1, 0.0)).add(EMA(0.5))
    for p in mine:
        with ag.no_grad():
            p.copy_(p * 2)
    before = flat(mine)
    train(mine, optimizer, 0, 3)
    np.testing.assert_array_equal(flat(mine), before)  # alpha 0: they never leave
    with optimizer.averaged():
        np.testing.assert_array_equal(flat(mine), before)


def test_averages_are_part_of_the_state() -> None:
    ends = []
    for cut in (False, True):
        mine = weights()
        optimizer = optim.Adam(mine).add(Lookahead(2, 0.5)).add(EMA(0.9))
        train(mine, optimizer, 0, 3)
        if cut:
            state = optimizer.state_dict()
            assert {"slow", "ema", "exp_avg"} < {*state} and state["ema"]["0"].shape == (3, 2)
            optimizer = optim.Adam(mine).add(EMA(0.9)).add(Lookahead(2, 0.5))
            optimizer.load_state_dict(state)
        train(mine, optimizer, 3, 6)
        with optimizer.averaged():
            average = flat(mine)
        ends.append((flat(mine).tobytes(), average.tobytes()))
    assert ends[0] == ends[1] and ends[0][0] != ends[0][1]


def test_averages_that_a_state_lacks_begin_with_the_weights() -> None:
    mine = weights()
    optimizer = SGD(mine, 0.1)
    train(mine, optimizer, 0, 3)
    later = weights()
    other = SGD(later, 0.1).add(EMA(0.9))
    with ag.no_grad():
        for p, w in zip(later, mine, strict=True):
            p.copy_(w)
    other.load_state_dict(optimizer.state_dict())
    with other.averaged():
        np.testing.assert_array_equal(flat(later), flat(mine))


def test_the_ledger_counts_averages_on_meta_too() -> None:
    rows = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend):
            p = nn.Parameter(ag.zeros(3, 7))
            optimizer = SGD([p], 0.1).add(Lookahead(2, 0.5)).add(EMA(0.9))
            with context.using(ledger=ag.Ledger()) as state:
                for _ in range(4):
                    p.deliver(ag.ones(3, 7))
                    optimizer.step()
        rows.append([(r.key.scope, r.key.primitive, r.calls, r.cost) for r in state.ledger])
    assert rows[0] == rows[1]
    (average,) = (row for row in rows[0] if row[1] == "average")
    assert average[0] == "optimizer" and average[2] == 4 + 2
    assert (average[3].add, average[3].mul) == (6 * 42, 6 * 21)


@pytest.mark.parametrize(("make", "said"), [
    (lambda: EMA(1.0), r"EMA: expected decay in \[0, 1\), got 1.0"),
    (lambda: Lookahead(0), "Lookahead: expected a whole k of at least 1 and .* got 0 and"),
    (lambda: Lookahead(1, 1.5), "Lookahead: expected a whole k of at least 1 and .*got 1 and 1.5"),
    (lambda: Lookahead(2.5), "Lookahead: expected a whole k of at least 1 and .* got 2.5 and 0.5"),
    (lambda: Falling(0.5, 1, float("nan")), "Falling: .*power of at least 0, got 0.5, 1 and nan"),
    (lambda: SGD(weights()).scale_rates([], -1), "SGD: expected factor of at least 0, got -1"),
    (lambda: Falling(1.5, 10), "Falling: expected end in .0, 1., .* got 1.5, 10 and 3.0"),
    (lambda: Falling(0.5, 0), "Falling: .*total of at least 1 .* got 0.5, 0 and 3.0"),
    (lambda: SGD(weights()).add(EMA()).add(EMA()), "SGD: expected no EMA yet, got another one"),
    (lambda: SGD(weights()).averaged().__enter__(), "SGD: expected an EMA, got none"),
])  # fmt: skip
def test_what_is_no_average(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
