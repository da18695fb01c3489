"""L-BFGS against torch, and its own promises."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, optim
from tallygrad.autograd.array import array
from tallygrad.autograd.optim import EMA, LBFGS, SGD
from tallygrad.autograd.optim.line_search import Point, strong_wolfe
from tallygrad.autograd.testing.optimizers import default_type

START = (np.array([-1.2, 1.0, 0.7]), np.array([[0.5, -0.3]]))
WOLFE = {"line_search_fn": "strong_wolfe"}


def valley(a: Any, b: Any) -> Any:
    """Return Rosenbrock's function of five numbers."""
    x = [a[0], a[1], a[2], b[0, 0], b[0, 1]]
    return sum(100 * (v - u * u) ** 2 + (1 - u) ** 2 for u, v in pairwise(x))


def weights(dtype: str = "float64") -> list[nn.Parameter]:
    return [nn.Parameter(ag.tensor(w.astype(dtype))) for w in START]


def closure(optimizer: Any, parameters: Any, calls: list[int]) -> Callable[[], Any]:
    def run() -> Any:
        calls.append(1)
        optimizer.zero_grad()
        loss = valley(*parameters)
        loss.backward()
        return loss

    return run


@pytest.mark.parity
@pytest.mark.parametrize("settings", [
    {"lr": 0.1, "max_iter": 8}, {"lr": 0.02, "history_size": 2}, {"lr": 0.1, "max_eval": 3},
    {"lr": 0.1, "tolerance_change": 0.05}, {"lr": 0.1, "tolerance_grad": 30.0}, WOLFE,
    {**WOLFE, "history_size": 2, "max_iter": 5}, {**WOLFE, "lr": 1e-4, "max_iter": 4},
    {**WOLFE, "lr": 1e3, "max_iter": 4}, {**WOLFE, "max_eval": 9},
], ids=str)  # fmt: skip
def test_steps_are_those_of_torch(settings: dict[str, Any]) -> None:
    """With as many evaluations, and the state half of the way through `state_dict`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine, theirs = weights(), [torch.nn.Parameter(torch.tensor(w)) for w in START]
    ours, other = LBFGS(mine, **settings), torch.optim.LBFGS(theirs, **settings)
    calls: tuple[list[int], list[int]] = ([], [])
    for step in range(4):
        if step == 2:
            state, ours = ours.state_dict(), LBFGS(mine, **settings)
            ours.load_state_dict(state)
        loss = ours.step(closure(ours, mine, calls[0]))
        expected = other.step(closure(other, theirs, calls[1]))
        assert loss.item() == pytest.approx(float(expected.detach()), rel=1e-7, abs=1e-12)
        assert len(calls[0]) == len(calls[1])
        for p, t in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-6, atol=1e-9)


def searched(
    wave: Callable[[float], tuple[float, float]], first: float, torch: Any, module: Any
) -> int:
    """Search along a line with ours and torch's; compare the steps that they try."""
    ours: list[float] = []
    theirs: list[float] = []

    def probe(t: float) -> Point:
        ours.append(t)
        value, slope = wave(t)
        return Point(t, value, array(np.array([slope])), slope)

    def objective(x: Any, t: float, d: Any) -> Any:
        theirs.append(float(t))
        value, slope = wave(float(t))
        return value, torch.tensor([slope])

    start = probe(0.0)
    point, count = strong_wolfe(probe, start, first, 1e-9, 12)
    value, gradient = objective(None, 0.0, None)
    one = torch.ones(1)
    found = module._strong_wolfe(
        objective, one, first, one, value, gradient, start.slope, max_ls=12
    )
    assert (point.t, count) == (pytest.approx(float(found[2]), rel=1e-6), found[3])
    assert ours == pytest.approx(theirs, rel=1e-6)
    return count


@pytest.mark.parity
def test_steps_of_the_line_search_are_those_of_torch() -> None:
    """On waves along a line, from short and long first steps."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module, rng, counts = import_module("torch.optim.lbfgs"), np.random.default_rng(0), set()
    with default_type(torch, "float64"):
        for _ in range(200):
            bend, high, often, first = 10.0 ** rng.uniform([-3, -2, -1, -4], [1, 1, 1, 2])

            def wave(t: float, of: tuple[float, float, float] = (bend, high, often)) -> Any:
                bend, high, often = of
                slope = 2 * bend * t - 1 - high * often * np.sin(often * t)
                return bend * t * t - t + high * np.cos(often * t), slope

            counts.add(searched(wave, first, torch, module))
    assert {*range(1, 9)} <= counts


def test_it_finds_the_bottom_of_the_valley() -> None:
    parameters = [nn.Parameter(ag.tensor(abs(w).astype("f4"))) for w in START]
    optimizer = LBFGS(parameters, **WOLFE).add(EMA())
    losses = [optimizer.step(closure(optimizer, parameters, [])).item() for _ in range(4)]
    assert losses[0] > 10 > 1e-6 > losses[-1]
    state = optimizer.state_dict()
    assert {"ema", "gradient", "change", "pair0.change"} <= {*state} and state["step"] == 4


def test_frozen_parameters_stay() -> None:
    parameters = weights()
    optimizer = LBFGS(parameters, lr=0.1)
    run = closure(optimizer, parameters, [])
    optimizer.step(run)
    before = [p.numpy().copy() for p in parameters]
    parameters[1].requires_grad_(False)
    optimizer.step(run)
    assert [(p.numpy() == w).all() for p, w in zip(parameters, before, strict=True)] == [
        False,
        True,
    ]


def test_the_ledger_tells_its_work_from_that_of_the_loss() -> None:
    parameters = weights()
    optimizer = LBFGS(parameters, lr=0.1, max_iter=2)
    with context.using(ledger=ag.Ledger()) as state:
        optimizer.step(closure(optimizer, parameters, []))
    scopes = {(row.key.scope, row.key.phase) for row in state.ledger}
    assert ("optimizer", "update") in scopes and ("", "forward") in scopes
    assert not any(scope == "optimizer" and phase != "update" for scope, phase in scopes)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    parameters = weights()
    optimizer = LBFGS(parameters, lr=0.1)
    optimizer.step(closure(optimizer, parameters, []))
    state = optimizer.state_dict()
    wrong = {**state, "gradient": {"0": np.zeros(2), "1": np.zeros((1, 2))}}
    with pytest.raises(ValueError, match=r"0: expected \(3,\), optimizer.s state has \(2,\)"):
        optimizer.load_state_dict(wrong)
    after = optimizer.state_dict()
    assert {*after} == {*state} and after["change"]["0"].tobytes() == state["change"]["0"].tobytes()


def test_other_optimizers_call_a_closure_too() -> None:
    parameters = weights()
    sgd = SGD(parameters, 1e-4)
    losses = [sgd.step(closure(sgd, parameters, [])) for _ in range(2)]
    assert losses[0] is not None and losses[1] is not None
    assert losses[0].item() > losses[1].item()


@pytest.mark.parametrize(("make", "said"), [
    (lambda: LBFGS(weights()).step(), "LBFGS: expected step.closure., which returns the loss"),
    (lambda: LBFGS([{"params": [p]} for p in weights()]), "LBFGS: expected one group of parame"),
    (lambda: LBFGS(weights(), max_iter=0), "LBFGS: expected a whole max_iter above 0, got 0"),
    (lambda: LBFGS(weights(), max_eval=0), "LBFGS: expected a whole max_eval above 0, got 0"),
    (lambda: LBFGS(weights(), history_size=1.5), "a whole history_size above 0, got 1.5"),
    (lambda: LBFGS(weights(), tolerance_grad=-1), "LBFGS: expected tolerance_grad of at least 0"),
    (lambda: LBFGS(weights(), line_search_fn="x"), "expected line_search_fn None or 'stron"),
])  # fmt: skip
def test_what_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        make()


def test_it_has_no_name_for_the_command_line() -> None:
    assert "lbfgs" not in optim.names()
