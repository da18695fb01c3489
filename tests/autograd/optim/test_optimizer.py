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
        ops.sgd(data, grad, ag.zeros(dtype=self.flat.dtype).data, lr, **options)
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
