"""Schedulers: torch's rates, momenta, state and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn, optim
from tallygrad.autograd.optim import lr_scheduler as ours

Make = Callable[[Any, Any], Any]  # a scheduler of a module of schedulers and an optimizer

MAKERS: dict[str, Make] = {
    "LambdaLR": lambda m, o: m.LambdaLR(o, [lambda e: 0.95**e, lambda e: 1 / (1 + e)]),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda e: 0.9 + 0.01 * (e % 3)),
    "StepLR": lambda m, o: m.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [19, 4, 4], 0.3),
    "ConstantLR": lambda m, o: m.ConstantLR(o, total_iters=6),
    "LinearLR": lambda m, o: m.LinearLR(o, 0.1, 0.8, total_iters=11),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 17, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 12, 1e-3),
    "restarts of one length": lambda m, o: m.CosineAnnealingWarmRestarts(o, 7),
    "restarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2, 1e-3),
    "CyclicLR": lambda m, o: m.CyclicLR(o, [0.01, 0.02], 0.3, 4, 7),
    "CyclicLR triangular2": lambda m, o: m.CyclicLR(o, 0.01, 0.3, 5, mode="triangular2"),
    "CyclicLR exp_range": lambda m, o: m.CyclicLR(o, 0.01, 0.3, 5, mode="exp_range", gamma=0.97),
    "CyclicLR scale_fn": lambda m, o: m.CyclicLR(
        o, 0.01, 0.3, 5, scale_fn=lambda x: 1 / (1 + x), scale_mode="iterations"
    ),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, [0.2, 0.4], epochs=8, steps_per_epoch=4),
    "OneCycleLR three phases": lambda m, o: m.OneCycleLR(
        o, 0.2, 31, anneal_strategy="linear", three_phase=True
    ),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o,
        [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, 15), m.StepLR(o, 2)],
        [5, 20],
    ),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler(
        [m.ConstantLR(o, 0.5, 4), m.ExponentialLR(o, 0.9), m.LinearLR(o, 0.2, total_iters=9)]
    ),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(
        o, factor=0.5, patience=2, cooldown=1, min_lr=[0.04, 0.01]
    ),
}
LOSSES = [1 / (1 + min(i, 6)) for i in range(30)]


def optimizer(**settings: Any) -> optim.Optimizer:
    two = [nn.Parameter(ag.zeros(1)) for _ in range(2)]
    return optim.SGD([{"params": [two[0]]}, {"params": [two[1]], "lr": 0.1}], 0.2, **settings)


def advance(scheduler: Any, i: int) -> None:
    if "Plateau" in type(scheduler).__name__:
        scheduler.step(LOSSES[i])
    else:
        scheduler.step()


@pytest.mark.parity
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rates_and_momenta_are_torchs(make: Make, adam: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    kind, settings = ("Adam", {"betas": (0.7, 0.99)}) if adam else ("SGD", {"momentum": 0.7})
    two = [nn.Parameter(ag.zeros(1)) for _ in range(2)]
    mine = getattr(optim, kind)([{"params": [p]} for p in two], lr=0.2, **settings)
    tensors = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": [t]} for t in tensors]
    theirs = getattr(torch.optim, kind)(groups, lr=0.2, **settings)
    mine.groups[1].lr = theirs.param_groups[1]["lr"] = 0.1
    scheduler, other = make(ours, mine), make(torch.optim.lr_scheduler, theirs)
    for i in range(30):
        expected = [[g["lr"], *(g["betas"] if adam else [g["momentum"]])]
                    for g in theirs.param_groups]  # fmt: skip
        got: list[Any] = [[g.lr, *(g.betas if adam else [g.momentum])] for g in mine.groups]
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15, err_msg=f"step {i}")
        assert scheduler.get_last_lr() == [g.lr for g in mine.groups] == mine.rates
        theirs.step()
        advance(scheduler, i)
        advance(other, i)


@pytest.mark.parity
def test_fractions_of_epochs_are_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine, theirs = optimizer(), torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    scheduler = ours.CosineAnnealingWarmRestarts(mine, 3, 2)
    other = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 3, 2)
    for epoch in (0.0, 0.4, 2.9, 3.1, 8.5, 9.0):
        scheduler.step(epoch)
        other.step(epoch)
        assert scheduler.get_last_lr()[0] == pytest.approx(other.get_last_lr()[0], rel=1e-12)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_scheduler_continues_from_its_state(make: Make) -> None:
    first, second = optimizer(momentum=0.9), optimizer(momentum=0.9)
    whole, stopped = make(ours, first), make(ours, second)
    for i in range(12):
        advance(whole, i)
        advance(stopped, i)
    state = stopped.state_dict()
    fresh = optimizer(momentum=0.9)
    resumed = make(ours, fresh)
    resumed.load_state_dict(state)
    for i in range(12, 20):
        assert fresh.rates == first.rates
        advance(whole, i)
        advance(resumed, i)
    assert fresh.rates == first.rates


def test_a_step_takes_the_rate_that_was_set() -> None:
    p = nn.Parameter(ag.zeros(1))
    sgd = optim.SGD([p], lr=1.0)
    scheduler = ours.StepLR(sgd, 1, 0.25)
    for _ in range(3):
        p.grad = ag.ones(1)
        sgd.step()
        scheduler.step()
    assert p.item() == -(1 + 0.25 + 0.0625)


def test_a_rate_that_was_changed_by_hand_keeps_its_change() -> None:
    sgd = optimizer()
    scheduler = ours.ExponentialLR(sgd, 0.5)
    sgd.groups[0].lr *= 3
    scheduler.step()
    assert sgd.rates == pytest.approx([0.3, 0.05])


def test_a_scheduler_of_the_users_own_defines_rates_as_in_torch() -> None:
    class Halving(ours.LRScheduler):
        def get_lr(self) -> list[float]:
            return [lr / 2**self.last_epoch for lr in self.base_lrs]

    scheduler = Halving(optimizer())
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1, 0.05]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: ours.StepLR(o, 0), r"StepLR: step_size: expected at least 1, got 0"),
        (lambda o: ours.LambdaLR(o, [abs]), r"lr_lambda: expected one for each of 2 groups, got 1"),
        (lambda o: ours.ConstantLR(o, 2.0), r"ConstantLR: expected factor in \[0, 1\], got 2.0"),
        (lambda o: ours.LinearLR(o, 0.0), r"start_factor in \(0, 1\] .* got 0.0 and 1.0"),
        (lambda o: ours.CyclicLR(o, 0, 1, mode="up"), r"mode of CyclicLR"),
        (lambda o: ours.OneCycleLR(o, 0.1), r"expected total_steps or epochs and steps_per_epoch"),
        (lambda o: ours.OneCycleLR(o, 0.1, 9), r"cycle_momentum=False .*, got True and SGD"),
        (lambda o: ours.OneCycleLR(o, 0.1, 2, cycle_momentum=False).step(4), r"expected 2 steps"),
        (lambda o: ours.SequentialLR(o, [], []), r"expected at least one scheduler, got none"),
        (
            lambda o: ours.SequentialLR(o, [ours.StepLR(o, 1)], [3]),
            r"SequentialLR: expected 0 milestones, got 1",
        ),
        (
            lambda o: ours.SequentialLR(optimizer(), [ours.StepLR(o, 1)], []),
            r"schedulers of one optimizer, got several",
        ),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(optimizer())


def test_an_optimizer_with_a_schedule_is_refused() -> None:
    sgd = optim.SGD([nn.Parameter(ag.zeros(1))], lr=optim.schedules.Cosine(0.1, 9))
    with pytest.raises(ValueError, match="expected an optimizer with a number as lr, got a sched"):
        ours.StepLR(sgd, 1)
