"""Schedules against torch, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd.optim import schedules


def rates(schedule: schedules.Schedule, count: int) -> list[float]:
    return [schedule(t) for t in range(count)]


def torch_rates(lr: float, count: int, make: Callable[[Any, Any], Any]) -> list[float]:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


CASES: dict[str, tuple[schedules.Schedule, int, Callable[[Any, Any], Any]]] = {
    "constant": (schedules.Constant(0.4), 9, lambda s, o: s.ConstantLR(o, factor=1.0)),
    "step": (
        schedules.StepDecay(0.4, step_size=3, gamma=0.5), 11, lambda s, o: s.StepLR(o, 3, 0.5)
    ),
    "milestones": (
        schedules.StepDecay(0.4, milestones=(2, 5), gamma=0.2),
        9,
        lambda s, o: s.MultiStepLR(o, [2, 5], 0.2),
    ),
    "cosine": (
        schedules.Cosine(0.4, 10, 0.01), 11, lambda s, o: s.CosineAnnealingLR(o, 10, 0.01)
    ),
    "one-cycle": (schedules.OneCycle(0.4, 20), 20, lambda s, o: s.OneCycleLR(o, 0.4, 20)),
    "one-cycle-late": (
        schedules.OneCycle(0.4, 7, 0.6, 10, 100),
        7,
        lambda s, o: s.OneCycleLR(
            o, 0.4, 7, pct_start=0.6, div_factor=10, final_div_factor=100
        ),
    ),
    "exponential": (schedules.Exponential(0.4, 0.9), 9, lambda s, o: s.ExponentialLR(o, 0.9)),
    "polynomial": (
        schedules.Polynomial(0.4, 7, 2.0), 9, lambda s, o: s.PolynomialLR(o, 7, power=2.0)
    ),
    "warm-up": (
        schedules.Warmup(schedules.Constant(0.4), 4),
        8,
        lambda s, o: s.LinearLR(o, start_factor=1 / 5, total_iters=4),
    ),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_schedules_agree_with_torch(name: str) -> None:
    schedule, count, make = CASES[name]
    np.testing.assert_allclose(rates(schedule, count), torch_rates(0.4, count, make), rtol=1e-9)


def test_schedules_end_and_stay() -> None:
    assert schedules.Cosine(1.0, 10, 0.25)(99) == 0.25
    assert schedules.OneCycle(1.0, 10)(99) == pytest.approx(1 / 25e4)
    assert schedules.OneCycle(1.0, 1)(0) in (1.0, pytest.approx(1 / 25e4))


def test_a_triangle_rises_and_falls_in_lines() -> None:
    triangle = schedules.Triangle(2.0, 100)
    assert rates(triangle, 100)[0] == 0.4 and triangle(23) == pytest.approx(2.0)
    np.testing.assert_allclose(np.diff(rates(triangle, 24)), 1.6 / 23)
    np.testing.assert_allclose(np.diff([triangle(step) for step in range(23, 101)]), -1.86 / 77)
    assert triangle(100) == triangle(999) == pytest.approx(0.14)


def test_warm_up_rises_to_the_schedule_below() -> None:
    inner = schedules.Cosine(1.0, 10)
    outer = schedules.Warmup(inner, 3)
    assert all(a < b for a, b in pairwise(rates(outer, 4)))
    assert rates(outer, 10)[3:] == rates(inner, 10)[3:]


def test_by_name() -> None:
    assert schedules.by_name("constant", 0.1, 10) == schedules.Constant(0.1)
    assert schedules.by_name("cosine", 0.1, 10, minimum=0.01) == schedules.Cosine(0.1, 10, 0.01)
    assert schedules.by_name("one-cycle", 0.1, 10, warmup=2) == schedules.Warmup(
        schedules.OneCycle(0.1, 10), 2
    )
    step = schedules.by_name("step", 0.1, 10, milestones=(3, 6), gamma=0.5)
    assert step == schedules.StepDecay(0.1, None, (3, 6), 0.5)
    assert set(schedules.names()) == {
        "constant", "step", "cosine", "one-cycle", "exponential", "polynomial", "triangle",
        "plateau",
    }  # fmt: skip
    assert schedules.by_name("polynomial", 0.1, 9, power=2.0) == schedules.Polynomial(0.1, 9, 2.0)
    # Half an epoch of six steps.
    assert schedules.by_name("exponential", 0.1, 9, gamma=0.25, step_size=6)(3) == 0.05


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        ({"name": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
        (
            {"name": "cosine", "minimun": 1},
            "unknown option of schedule cosine 'minimun'; did you mean 'minimum'?",
        ),
        ({"name": "constant", "lr": -1.0}, "expected lr of at least 0, got -1.0"),
        ({"name": "constant", "lr": float("nan")}, "expected lr of at least 0, got nan"),
        ({"name": "step", "step_size": 1, "gamma": -1.0}, "expected gamma of at least 0, got -1.0"),
        (
            {"name": "one-cycle", "div_factor": 0},
            "expected div_factor and final_div_factor above 0",
        ),
        ({"name": "step"}, "expected step_size or milestones, got neither"),
        ({"name": "step", "step_size": 0}, "expected step_size above 0, got 0"),
        ({"name": "cosine", "total": 0}, "expected total above 0, got 0"),
        ({"name": "one-cycle", "rising": 2.0}, "expected rising in .0, 1., got 2.0"),
        (
            {"name": "exponential", "gamma": 1.5},
            "exponential: expected gamma in .0, 1. and step_size",
        ),
        ({"name": "triangle", "rising": 1.0}, "triangle: expected rising in .0, 1., and start"),
        ({"name": "polynomial", "power": -1.0}, "polynomial: expected power of at least 0, got -1"),
        ({"name": "MultiStepLR"}, "unknown schedule 'MultiStepLR'; did you mean 'step'?"),
        ({"name": "constant", "warmup": -1}, "expected steps of at least 0, got -1"),
    ],
)
def test_by_name_refuses(arguments: dict[str, Any], piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        schedules.by_name(**{"lr": 0.1, "total": 10, **arguments})


@pytest.mark.parity
@pytest.mark.parametrize("settings", [
    {}, {"mode": "max", "factor": 0.5, "patience": 1},
    {"patience": 0, "cooldown": 2, "min_lr": 0.03},
    {"threshold": 0.5, "threshold_mode": "abs", "patience": 1}, {"factor": 0.0, "eps": 0.2},
    {"mode": "max", "threshold": 0.3, "patience": 1, "factor": 0.3},
], ids=str)  # fmt: skip
def test_plateaus_are_those_of_torch(settings: dict[str, Any]) -> None:
    """Half of the way the state goes through `state_dict`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    ours = schedules.ReduceLROnPlateau(0.4, **settings)
    values = np.random.default_rng(1).standard_normal(60) + 3
    found = []
    for i, value in enumerate([*values, float("nan"), *values[::-1]]):
        if i == 30:
            state, ours = ours.state_dict(), schedules.ReduceLROnPlateau(9.0, **settings)
            ours.load_state_dict(state)
        ours.observe(float(value))
        other.step(float(value))
        found.append(ours(i))
        assert found[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len({*found}) > 1 or settings.get("eps")


@pytest.mark.parametrize(("settings", "said"), [
    ({"mode": "least"}, "plateau: expected mode min or max and threshold_mode rel or abs, got"),
    ({"factor": 1.0}, "plateau: expected factor in .0, 1., got 1.0"),
    ({"patience": -1}, "plateau: expected patience, threshold, cooldown, min_lr and eps of at lea"),
])  # fmt: skip
def test_plateaus_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedules.ReduceLROnPlateau(0.1, **settings)
