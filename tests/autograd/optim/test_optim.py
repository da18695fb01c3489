"""SGD against torch and its own promises; schedules against torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.optim import SGD, schedules

SHAPES = ((3, 2), (4,), (2, 1, 2))


def make(
    dtype: str = "float64", shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[nn.Parameter]:
    rng = np.random.default_rng(3)
    return [nn.Parameter(ag.tensor(rng.standard_normal(s).astype(dtype))) for s in shapes]


def feed(parameters: list[nn.Parameter], step: int) -> list[np.ndarray]:
    """Give every parameter a gradient that depends on the step."""
    rng = np.random.default_rng(step)
    numbers = [rng.standard_normal(p.shape).astype(p.dtype) for p in parameters]
    for p, g in zip(parameters, numbers, strict=True):
        p.deliver(ag.tensor(g))
    return numbers


SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
    {"momentum": 0.8, "weight_decay": 0.05, "dampening": 0.5},
]


@pytest.mark.parity
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
def test_parity_with_torch(settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine = make()
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy().copy())) for p in mine]
    ours, other = SGD(mine, 0.1, **settings), torch.optim.SGD(theirs, lr=0.1, **settings)
    for step in range(6):
        ours.zero_grad()
        for t, g in zip(theirs, feed(mine, step), strict=True):
            t.grad = torch.tensor(g)
        ours.step()
        other.step()
        for p, t in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parity
def test_parity_of_groups_and_schedule() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine = make()
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy().copy())) for p in mine]
    schedule = schedules.StepDecay(0.2, step_size=2, gamma=0.5)
    ours = SGD(
        [{"params": mine[:1], "weight_decay": 0.1}, {"params": mine[1:], "lr": 0.01}],
        schedule,
        momentum=0.9,
    )
    other = torch.optim.SGD(
        [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "lr": 0.01}],
        lr=0.2,
        momentum=0.9,
    )
    for step in range(6):
        other.param_groups[0]["lr"] = 0.2 * 0.5 ** (step // 2)
        assert ours.rates == [other.param_groups[0]["lr"], 0.01]
        ours.zero_grad()
        for t, g in zip(theirs, feed(mine, step), strict=True):
            t.grad = torch.tensor(g)
        ours.step()
        other.step()
    for p, t in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-12)


def test_one_update_call_a_group() -> None:
    mine = make()
    optimizer = SGD([{"params": mine[:2]}, {"params": mine[2:]}], 0.1, momentum=0.9)
    feed(mine, 0)
    with context.using(ledger=ag.Ledger()) as state:
        optimizer.step()
    assert [(r.key.scope, r.key.phase, r.key.primitive, r.calls) for r in state.ledger] == [
        ("optimizer", "update", "sgd", 2)
    ]
    assert state.ledger.total().mul == 2 * sum(p.size for p in mine)


def test_missing_gradients_are_zeros_and_counted() -> None:
    a, b = make(shapes=((2,), (3,)))
    before = b.numpy().copy()
    optimizer = SGD([a, b], 0.5)
    a.deliver(ag.tensor(np.ones(2)))
    with context.using(ledger=ag.Ledger()) as state:
        optimizer.step()
    assert [r.key.primitive for r in state.ledger] == ["store", "sgd"]
    np.testing.assert_array_equal(b.numpy(), before)
    np.testing.assert_array_equal(b.grad.numpy(), np.zeros(3))


def test_zero_grad_starts_anew() -> None:
    (p,) = make(shapes=((2,),))
    optimizer = SGD([p], 0.1)
    for _ in range(2):
        (p * 3.0).sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), [6, 6])
    optimizer.zero_grad()
    assert p.grad is None
    (p * 3.0).sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), [3, 3])


@pytest.mark.parity
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
def test_frozen_parameters_wait_as_in_torch(settings: dict[str, Any]) -> None:
    """Of four parameters some are frozen when the optimizer is built, and move once they are not;
    half of the way the state goes through `state_dict`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine = make(shapes=((2,), (3, 2), (4,), (1,)))
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy().copy())) for p in mine]
    flags = [(0, 1, 0, 1), (0, 1, 0, 1), (1, 1, 0, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 1)]
    for p, t, flag in zip(mine, theirs, flags[0], strict=True):
        p.requires_grad_(bool(flag))
        t.requires_grad_(bool(flag))
    ours, other = SGD(mine, 0.1, **settings), torch.optim.SGD(theirs, lr=0.1, **settings)
    for step, on in enumerate(flags):
        if step == 3:
            state = ours.state_dict()
            assert state["missed"] == {"0": 2, "2": 3}
            ours = SGD(mine, 0.1, **settings)
            ours.load_state_dict(state)
        ours.zero_grad()
        other.zero_grad()
        rng = np.random.default_rng(step)
        for p, t, flag in zip(mine, theirs, on, strict=True):
            p.requires_grad_(bool(flag))
            t.requires_grad_(bool(flag))
            g = rng.standard_normal(p.shape)
            if flag:
                p.deliver(ag.tensor(g))
                t.grad = torch.tensor(g)
        ours.step()
        other.step()
        for p, t in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_a_layer_that_is_unfrozen_trains() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    optimizer = SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    numbers = net.state_dict()

    def moved() -> list[bool]:
        net(ag.ones(3, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return [bool((numbers[n] != v).all()) for n, v in net.state_dict().items()]

    assert moved() == [False, False, True, True]
    net[0].requires_grad_(True)
    assert moved() == [True] * 4


def test_an_optimizer_of_frozen_parameters_does_nothing() -> None:
    (p,) = make(shapes=((2,),))
    before = p.requires_grad_(False).numpy().copy()
    optimizer = SGD([p], 0.1, momentum=0.9, weight_decay=0.5)
    optimizer.step()
    assert p.grad is None
    np.testing.assert_array_equal(p.numpy(), before)


@pytest.mark.parametrize(
    ("params", "error", "piece"),
    [
        (lambda p: [], ValueError, "expected at least one parameter, got none"),
        (lambda p: [{"params": []}], ValueError, "expected at least one parameter, got none"),
        (lambda p: p, TypeError, "expected parameters in a list or iterator, got Parameter"),
        (lambda p: nn.Linear(1, 1), TypeError, "list or iterator, got Linear"),
        (lambda p: {"params": [p]}, TypeError, "list or iterator, got dict"),
        (lambda p: [np.ones(2)], TypeError, "expected parameters, got ndarray"),
        (lambda p: [p * 1.0], ValueError, r"leaves, got a computed tensor of shape \(2,\)"),
        (lambda p: [p, p], ValueError, "expected each parameter once"),
        (lambda p: [{"params": [p]}, {"params": [p]}], ValueError, "expected each parameter once"),
        (lambda p: [{"params": [p]}, p], TypeError, "expected groups with 'params', got Param"),
        (lambda p: [{"lr": 1}], TypeError, "expected groups with 'params', got dict"),
    ],
)
def test_what_cannot_be_optimized(params: Any, error: type[Exception], piece: str) -> None:
    (p,) = make(shapes=((2,),))
    with pytest.raises(error, match=f"^SGD: .*{piece}"):
        SGD(params(p), 0.1)


def test_a_group_may_hold_a_single_parameter() -> None:
    (p,) = make(shapes=((2,),))
    assert SGD([{"params": p}], 0.1).parameters == [p]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_goes_on_with_the_same_bits_in_any_order(dtype: str) -> None:
    def steps(parameters: list[nn.Parameter], optimizer: SGD, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            feed(parameters, step)
            optimizer.step()

    settings: dict[str, Any] = {"lr": lambda t: 0.1 / (t + 1), "momentum": 0.9, "dampening": 0.1}
    whole = make(dtype)
    names = list(zip("abc", whole, strict=True))
    first = SGD(whole, named_parameters=names, **settings)
    steps(whole, first, 0, 3)
    halfway, numbers = first.state_dict(), [p.numpy().copy() for p in whole]
    assert halfway["step"] == 3
    assert [(k, v.shape) for k, v in halfway["velocity"].items()] == [
        ("a", (3, 2)), ("b", (4,)), ("c", (2, 1, 2))
    ]  # fmt: skip
    steps(whole, first, 3, 6)

    later = [nn.Parameter(ag.tensor(n)) for n in numbers]
    second = SGD(later[::-1], named_parameters=zip("abc", later, strict=True), **settings)
    second.load_state_dict(halfway)
    steps(later, second, 3, 6)
    for p, q in zip(whole, later, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_state_that_does_not_fit() -> None:
    optimizer = SGD(make(), 0.1, momentum=0.9)
    state = optimizer.state_dict()
    assert [*state["velocity"]] == ["0", "1", "2"]
    wrong = {"0": np.ones((2, 3)), "1": np.ones(4), "x": np.ones(1)}
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict({"step": 5, "velocity": wrong})
    assert str(caught.value).split("\n")[1:] == [
        "0: expected (3, 2), optimizer's state has (2, 3)",
        "2: missing",
        "x: extra, nothing has this name",
    ]
    assert optimizer.steps == 0 and not optimizer.state_dict()["velocity"]["1"].any()


def test_without_momentum_there_is_no_velocity() -> None:
    optimizer = SGD(make(), 0.1)
    assert optimizer.groups[0].velocity.shape == ()
    assert optimizer.state_dict() == {"step": 0, "velocity": {}}


@pytest.mark.parametrize(
    ("settings", "piece"),
    [
        ({"lr": -0.1}, "expected lr of at least 0, got -0.1"),
        ({"momentum": -1.0}, r"expected momentum in \[0, 1\], got -1.0"),
        ({"dampening": float("nan")}, r"expected dampening in \[0, 1\], got nan"),
        ({"weight_decay": -2.0}, "expected weight_decay of at least 0, got -2.0"),
        (
            {"nesterov": True},
            "expected momentum above 0 and dampening 0 with nesterov, got 0.0 and 0.0",
        ),
    ],
)
def test_wrong_settings(settings: dict[str, Any], piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        SGD(make(), **{"lr": 0.1, **settings})


def test_unknown_setting_of_a_group() -> None:
    with pytest.raises(
        ValueError, match="unknown setting of a group 'momentun'; did you mean 'momentum'"
    ):
        SGD([{"params": make(), "momentun": 0.9}], 0.1)


def test_flat_may_be_given_and_is_kept() -> None:
    flat = nn.flatten(make())
    assert SGD(flat, 0.1).groups[0].flat is flat


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
        "constant", "step", "cosine", "one-cycle", "exponential", "polynomial", "triangle"
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
