"""SGD against torch, and its own promises."""

from __future__ import annotations

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
