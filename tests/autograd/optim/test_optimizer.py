"""What a new optimizer gets from the shared base: slots in the state, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn, optim
from tallygrad.autograd.array import Array
from tallygrad.autograd.ops import update as ops
from tallygrad.autograd.optim import Optimizer, ParameterGroup, Run


class AveragedGroup(ParameterGroup):
    """Descent that also keeps the sums of gradients and of weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gradients, self.weights = self.slot(), self.slot()

    def own_slots(self) -> dict[str, Array]:
        return {"gradients": self.gradients, "weights": self.weights}

    def update(self, run: Run, lr: Array) -> None:
        first, last, *_ = run
        data, grad = (self.flat.part(a, first, last) for a in (self.flat.data, self.flat.grad))
        ops.accumulate(self.flat.part(self.gradients, first, last), grad)
        options = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
        ops.sgd(data, grad, self.unused, self.unused, lr, **options)
        ops.accumulate(self.flat.part(self.weights, first, last), data)


class Averaged(Optimizer):
    group, slots = AveragedGroup, ("gradients", "weights")


def step(optimizer: Averaged, number: float) -> None:
    for p in optimizer.parameters:
        p.deliver(ag.full(p.shape, number))
    optimizer.step()
    optimizer.zero_grad()


def build() -> tuple[list[ag.Parameter], Averaged]:
    parameters = [ag.Parameter(ag.ones(2)), ag.Parameter(ag.ones(3, 1))]
    named = zip("ab", parameters, strict=True)
    return parameters, Averaged(parameters, {"lr": 0.5}, named)


def test_each_slot_is_saved_and_loaded_by_name() -> None:
    (a, b), optimizer = build()
    for number in (1.0, 2.0):
        step(optimizer, number)
    state = optimizer.state_dict()
    assert state["step"] == 2 and {*state} == {"step", "gradients", "weights"}
    assert state["gradients"]["b"].tolist() == [[3.0]] * 3
    assert state["weights"]["a"].tolist() == [0.5 + -0.5] * 2
    assert a.tolist() == [-0.5] * 2 and b.shape == (3, 1)
    _, other = build()
    other.load_state_dict(state)
    again: Any = other.state_dict()
    for slot in Averaged.slots:
        for name, value in state[slot].items():
            np.testing.assert_array_equal(again[slot][name], value)


def test_nothing_is_loaded_where_one_slot_does_not_fit() -> None:
    _, optimizer = build()
    step(optimizer, 1.0)
    state = optimizer.state_dict()
    state["weights"]["a"] = np.zeros(5)
    _, other = build()
    with pytest.raises(
        ValueError, match=r"nothing was loaded:\na: expected \(2,\), optimizer.s state has \(5,\)"
    ):
        other.load_state_dict(state)
    assert not other.state_dict()["gradients"]["b"].any() and other.steps == 0


def test_the_state_of_another_kind_is_refused() -> None:
    layer = nn.Linear(2, 1)
    sgd, adam = optim.SGD(layer.parameters(), 0.1), optim.Adam(layer.parameters())
    with pytest.raises(ValueError, match="Adam: expected a state with exp_avg, exp_avg_sq, max_ex"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(ValueError, match="SGD: expected a state with step, velocity, got none"):
        sgd.load_state_dict({})


ALL = sorted({*optim.names()})


@pytest.mark.parametrize("name", ALL)
def test_maximize_climbs_by_what_would_descend(name: str) -> None:
    """And leaves the gradients as they are."""
    ends = []
    for sign in (1, -1):
        p = nn.Parameter(ag.tensor(np.linspace(-1.0, 1.0, 6).reshape(2, 3)))
        kind = type(optim.create(name, [nn.Parameter(ag.ones(1))], 0.1))
        optimizer = kind([p], lr=0.1, maximize=sign < 0, foreach=None, fused=False)
        gradient = sign * np.arange(1.0, 7).reshape(2, 3)
        for _ in range(3):
            p.deliver(ag.tensor(gradient))
            optimizer.step()
            assert p.grad is not None and (p.grad.numpy() == gradient).all()
            optimizer.zero_grad()
        ends.append(p.numpy())
    assert (ends[0] == ends[1]).all() and (ends[0] != np.linspace(-1.0, 1.0, 6).reshape(2, 3)).all()


def test_a_group_may_climb_alone() -> None:
    a, b = nn.Parameter(ag.ones(2)), nn.Parameter(ag.ones(2))
    optimizer = optim.SGD([{"params": a, "maximize": True, "fused": True}, {"params": b}], lr=0.5)
    for p in (a, b):
        p.deliver(ag.ones(2))
    optimizer.step()
    assert a.tolist() == [1.5, 1.5] and b.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"maximise": True}, TypeError, "unknown option of SGD 'maximise'; did you mean 'maximize'"),
    ({"differentiable": True}, ValueError, "SGD: expected differentiable=False, got True"),
])  # fmt: skip
def test_options_that_are_not_to_be_had(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        optim.SGD([nn.Parameter(ag.ones(1))], 0.1, **options)


def test_names_may_come_with_the_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert optim.SGD(model.named_parameters()).names == [n for n, _ in model.named_parameters()]
    groups = [{"params": layer.named_parameters()} for layer in model.children()]
    assert optim.SGD(groups).names == ["weight", "bias"] * 2


def test_a_group_that_is_added_later() -> None:
    """Its averages begin with its weights, and its number of updates with 0."""
    a, b = nn.Parameter(ag.ones(2)), nn.Parameter(ag.full((3,), 5.0))
    optimizer = optim.Adam([a], lr=0.1).add(optim.EMA(0.5))
    for _ in range(2):
        a.deliver(ag.ones(2))
        optimizer.step()
    optimizer.add_param_group({"params": [b], "lr": 0.01})
    state = optimizer.state_dict()
    assert state["missed"] == {"1": 2} and state["ema"]["1"].tolist() == [5.0] * 3
    b.deliver(ag.ones(3))
    optimizer.step()
    np.testing.assert_allclose(b.numpy(), 5 - 0.01, rtol=1e-6)  # Adam's first step is lr
    with pytest.raises(ValueError, match="Adam: expected each parameter once, got one twice"):
        optimizer.add_param_group({"params": a})
