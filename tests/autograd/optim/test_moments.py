"""Optimizers that keep moments of the gradient: against torch, and their own promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, optim
from tallygrad.autograd.ops import moments
from tallygrad.autograd.primitive import REQUIRED, Primitive
from tallygrad.autograd.testing.optimizers import (
    OF_MATRICES,
    SAMPLES,
    OptimizerSample,
    default_type,
    difference,
    make,
)
from tallygrad.autograd.update_rules import RULES

MOMENTS = [sample for sample in SAMPLES if sample.name != "SGD"]
DECAYING = [sample for sample in SAMPLES if sample.decay(0.1)]


def weights(dtype: str = "float64") -> list[nn.Parameter]:
    rng = np.random.default_rng(3)
    shapes = ((3, 2), (4,), (2, 1, 2), (1,))
    return [nn.Parameter(ag.tensor(rng.standard_normal(s).astype(dtype))) for s in shapes]


def feed(parameters: list[nn.Parameter], step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(step)
    numbers = [rng.standard_normal(p.shape).astype(p.dtype) for p in parameters]
    for p, g in zip(parameters, numbers, strict=True):
        if p.requires_grad:
            p.deliver(ag.tensor(g))
    return numbers


@pytest.mark.parity
@pytest.mark.parametrize("sample", [*SAMPLES, *OF_MATRICES], ids=str)
def test_fifty_steps_end_where_those_of_torch_do(sample: OptimizerSample) -> None:
    """With groups, weight decay and a schedule with a warm-up."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert difference(sample, torch, "float64") < 1e-14
    assert difference(sample, torch, "float32") < 1e-6


@pytest.mark.parity
@pytest.mark.parametrize("sample", MOMENTS, ids=str)
def test_frozen_parameters_wait_as_in_torch(sample: OptimizerSample) -> None:
    """Each counts its own updates, also where the state goes through `state_dict`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine = weights()
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy().copy())) for p in mine]
    ours, other = make(sample, mine, 0.1), make(sample, theirs, 0.1, torch.optim)
    flags = [(0, 1, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1), (1, 0, 0, 1), (1, 1, 0, 1), (1, 1, 1, 1)]
    for step, on in enumerate(flags):
        if step == 4:
            state = ours.state_dict()
            assert state["missed"] == {"0": 2, "1": 1, "2": 3}
            ours = make(sample, mine, 0.1)
            ours.load_state_dict(state)
        for p, t, flag in zip(mine, theirs, on, strict=True):
            p.requires_grad_(bool(flag))
            t.requires_grad_(bool(flag))
        ours.zero_grad()
        for t, g in zip(theirs, feed(mine, step), strict=True):
            t.grad = torch.tensor(g) if t.requires_grad else None
        with default_type(torch, "float64"):
            ours.step()
            other.step()
        for p, t in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sample", MOMENTS, ids=str)
def test_state_goes_on_with_the_same_bits_in_any_order(sample: OptimizerSample) -> None:
    def build(parameters: list[nn.Parameter], order: int) -> Any:
        named = zip("abcd", parameters, strict=True)
        cls, settings = getattr(optim, sample.name), {**sample.settings, **sample.decay(0.1)}
        return cls(parameters[::order], lr=0.1, named_parameters=named, **settings)

    def steps(parameters: list[nn.Parameter], optimizer: Any, first: int) -> None:
        for step in range(first, first + 3):
            optimizer.zero_grad()
            feed(parameters, step)
            optimizer.step()

    whole = weights("float32")
    first = build(whole, 1)
    steps(whole, first, 0)
    halfway, numbers = first.state_dict(), [p.numpy().copy() for p in whole]
    slots = {name for name, parts in halfway.items() if name != "step" and parts}
    assert slots == {*first.groups[0].slots()} and halfway["step"] == 3
    steps(whole, first, 3)
    later = [nn.Parameter(ag.tensor(n)) for n in numbers]
    second = build(later, -1)
    second.load_state_dict(halfway)
    steps(later, second, 3)
    for p, q in zip(whole, later, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_count_of_missed_updates_that_cannot_be_is_refused() -> None:
    optimizer = optim.Adam(weights())
    state = optimizer.state_dict()
    for wrong in (1, -1, 0.5, "x"):
        with pytest.raises(ValueError, match="Adam: missed: 0: expected a whole number from 0 to"):
            optimizer.load_state_dict({**state, "missed": {"0": wrong}})


@pytest.mark.parametrize(("sample", "counted", "slots"), [
    (OptimizerSample("Adam", {}), (5, 6, 1, 1, 0), 2),
    (OptimizerSample("Adam", {"weight_decay": 0.1}), (6, 7, 1, 1, 0), 2),
    (OptimizerSample("AdamW", {"amsgrad": True}), (5, 7, 1, 1, 1), 3),
    (OptimizerSample("RMSprop", {}), (3, 4, 1, 1, 0), 1),
    (OptimizerSample("RMSprop", {"centered": True, "momentum": 0.9}), (7, 7, 1, 1, 1), 3),
    (OptimizerSample("Adagrad", {"weight_decay": 0.1}), (4, 3, 1, 1, 0), 1),
    (OptimizerSample("NAdam", {}), (6, 7, 2, 1, 0), 2),
    (OptimizerSample("RAdam", {"weight_decay": 0.1}), (6, 7, 1, 1, 0), 2),
    (OptimizerSample("Adamax", {}), (5, 3, 1, 0, 2), 2),
    (OptimizerSample("Adadelta", {}), (5, 8, 1, 2, 0), 2),
    (OptimizerSample("ASGD", {}), (1, 2, 0, 0, 0), 1),
    (OptimizerSample("Rprop", {}), (2, 2, 0, 0, 6), 2),
], ids=str)  # fmt: skip
def test_the_ledger_counts_each_operation(
    sample: OptimizerSample, counted: tuple[int, ...], slots: int
) -> None:
    """One call for all parameters; on meta the same. Counted are additions, multiplications,
    divisions, roots and comparisons."""
    counts = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend):
            parameters = [nn.Parameter(ag.zeros(3, 4)), nn.Parameter(ag.zeros(5))]
            optimizer = getattr(optim, sample.name)(parameters, lr=0.1, **sample.settings)
            for p in parameters:
                p.deliver(ag.ones(*p.shape))
            with context.using(ledger=ag.Ledger()) as state:
                optimizer.step()
        (row,) = state.ledger
        counts.append(row.cost)
        assert (row.key.scope, row.key.phase, row.calls) == ("optimizer", "update", 1)
    assert counts[0] == counts[1]
    cost, size = counts[0], 17
    found = cost.add, cost.mul, cost.div, cost.exp, cost.cmp
    assert found == tuple(size * times for times in counted)
    assert (cost.bytes_read, cost.bytes_written) == ((2 + slots) * 68, (1 + slots) * 68)


@pytest.mark.parametrize(("name", "settings", "said"), [
    ("Adam", {"lr": -0.1}, "Adam: expected lr of at least 0, got -0.1"),
    ("AdamW", {"eps": -1.0}, "AdamW: expected eps of at least 0, got -1.0"),
    ("Adam", {"betas": (0.9, 1.0)}, r"Adam: expected betas of two numbers in \[0, 1\), got \(0.9"),
    ("AdamW", {"betas": 0.9}, r"AdamW: expected betas of two numbers in \[0, 1\), got 0.9"),
    ("RMSprop", {"alpha": -1.0}, r"RMSprop: expected alpha in \[0, 1\], got -1.0"),
    ("RMSprop", {"alpha": 3}, r"RMSprop: expected alpha in \[0, 1\], got 3"),
    ("RMSprop", {"momentum": 1.5}, r"RMSprop: expected momentum in \[0, 1\], got 1.5"),
    ("Adam", {"eps": lambda: 1}, "Adam: expected eps of at least 0, got <function"),
    ("Adagrad", {"lr_decay": -1.0}, "Adagrad: expected lr_decay of at least 0, got -1.0"),
    ("Adam", {"lr": "0.1"}, "Adam: expected lr of at least 0, got '0.1'"),
    ("Adagrad", {"lr": float("nan")}, "Adagrad: expected lr of at least 0, got nan"),
    ("NAdam", {"momentum_decay": -1}, "NAdam: expected momentum_decay of at least 0, got -1"),
    ("RAdam", {"betas": (0.9,)}, r"RAdam: expected betas of two numbers in \[0, 1\), got \(0.9,\)"),
    ("Adadelta", {"rho": 1.5}, r"Adadelta: expected rho in \[0, 1\], got 1.5"),
    ("ASGD", {"lambd": -1.0}, "ASGD: expected lambd of at least 0, got -1.0"),
    ("Rprop", {"etas": (1.2, 0.5)}, "Rprop: expected etas of two numbers with 0 < x < 1"),
    ("Rprop", {"step_sizes": (1, 0.5)}, "Rprop: expected step_sizes of two numbers with 0 <= x"),
])  # fmt: skip
def test_wrong_settings(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        getattr(optim, name)(weights(), **settings)


@pytest.mark.parametrize("name", RULES)
def test_an_operand_of_another_shape_is_refused(name: str) -> None:
    primitive: Primitive = getattr(moments, name)
    w, wrong = ag.zeros(3).array, ag.zeros(2).array
    count = len(primitive.arguments) - 2
    attrs = {n: 0.5 for n, default in primitive.defaults.items() if default is REQUIRED}
    with pytest.raises(ValueError, match=r"update: expected an array of shape \(3,\), got \(2,\)"):
        primitive(w, wrong, *[w] * count, **attrs)


@pytest.mark.parity
@pytest.mark.parametrize("sample", DECAYING, ids=str)
def test_parameters_exempt_from_decay_are_like_a_group_without_it(sample: OptimizerSample) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine = weights()
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy().copy())) for p in mine]
    ours = getattr(optim, sample.name)(mine, lr=0.1, weight_decay=0.5, **sample.settings)
    ours.exempt_from_decay(p for p in mine if p.ndim == 1)
    groups = [{"params": theirs[::2]}, {"params": theirs[1::2], "weight_decay": 0.0}]
    other = getattr(torch.optim, sample.name)(groups, lr=0.1, weight_decay=0.5, **sample.settings)
    with default_type(torch, "float64"):
        for step in range(4):
            ours.zero_grad()
            for t, g in zip(theirs, feed(mine, step), strict=True):
                t.grad = torch.tensor(g)
            ours.step()
            other.step()
    for p, t in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sample", DECAYING, ids=str)
def test_scaled_rates_are_those_of_a_group_with_its_own(sample: OptimizerSample) -> None:
    made = getattr(optim, sample.name)
    mine, apart = weights(), weights()
    ours = made(mine, lr=0.1, weight_decay=0.5, **sample.settings)
    ours.scale_rates((p for p in mine if p.ndim == 1), 3.0)
    scaled = {"params": apart[1::2], "lr": 0.1 * 3.0, "weight_decay": 0.5 / 3.0}
    groups = [{"params": apart[::2]}, scaled]
    others = made(groups, lr=0.1, weight_decay=0.5, **sample.settings)
    for step in range(3):
        for parameters, optimizer in ((mine, ours), (apart, others)):
            optimizer.zero_grad()
            feed(parameters, step)
            optimizer.step()
    for p, q in zip(mine, apart, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
