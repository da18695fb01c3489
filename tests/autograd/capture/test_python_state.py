"""Functions that change Python's state: the same bits as without a trace, and what is told."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.capture.python_state import MOST, snapshot
from tallygrad.autograd.optim import SGD
from tallygrad.autograd.tensor import Tensor

Draw = Callable[["Net"], float]
count = 0
table = {"n": 0}


class Net(nn.Module):
    """Scales by what a function of it returns, in its inner layer."""

    def __init__(self, scale: Draw) -> None:
        self.fc, self.scale, self.n = nn.Linear(3, 2), scale, 0
        self.config: dict[str, Any] = {"n": [0, {"m": 0}]}
        self.options, self.numbers = SimpleNamespace(n=0), np.zeros(3)
        self.inner, self.rng = nn.ReLU(), np.random.default_rng(0)
        self.own, self.ids = random.Random(0), itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.fc(x)) * (1 + self.scale(self))


def attribute(net: Net) -> float:
    net.n += 1
    return net.n


def nested(net: Net) -> float:
    net.config["n"][1]["m"] += 1
    return float(net.config["n"][1]["m"])


def below(net: Net) -> float:
    net.inner.calls = getattr(net.inner, "calls", 0) + 1
    return float(net.inner.calls)


def of_object(net: Net) -> float:
    net.options.n += 1
    return float(net.options.n)


def in_array(net: Net) -> float:
    net.numbers[1] += 1
    return float(net.numbers.sum())


def variable(net: Net) -> float:
    global count
    count += 1
    return count


def in_table(net: Net) -> float:
    table["n"] += 1
    return table["n"]


CHANGES: dict[str, tuple[Draw, str]] = {
    "attribute": (attribute, "changes attribute n of Net"),
    "nested": (nested, "changes attribute config of Net"),
    "below": (below, "changes attribute calls of ReLU"),
    "object": (of_object, "changes attribute options of Net"),
    "array": (in_array, "changes attribute numbers of Net"),
    "variable": (variable, "changes variable count"),
    "table": (in_table, "changes variable table"),
    "random": (lambda net: random.random(), "draws from Python's random"),
    "np.random": (lambda net: float(np.random.rand()), "draws from np.random"),
    "generator": (lambda net: float(net.rng.random()), "changes attribute rng of Net"),
    "Random": (lambda net: net.own.random(), "changes attribute own of Net"),
    "iterator": (lambda net: float(next(net.ids)), "changes attribute ids of Net"),
}


@pytest.fixture(autouse=True)
def same_generators() -> Iterator[None]:
    python, numbers = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numbers)


def trained(scale: Draw, traced: bool, told: list[str]) -> list[float]:
    """Return the weights after each of some steps."""
    global count
    count, table["n"] = 0, 0
    ag.manual_seed(0)
    random.seed(1)
    np.random.seed(1)
    net = Net(scale)
    sgd = SGD(net.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        loss = net(x).sum()
        loss.backward()
        return loss

    call = ag.trace(step, training=True, tell=told.append) if traced else step
    weights: list[float] = []
    for _ in range(6):
        call(ag.ones(4, 3))
        sgd.step()
        sgd.zero_grad()
        weights += net.fc.weight.numpy().ravel().tolist()
    return weights


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CHANGES)
def test_a_step_that_changes_python_s_state_is_not_captured(name: str) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    scale, said = CHANGES[name]
    told: list[str] = []
    with context.using(backend="llvm"):
        expected = trained(scale, False, told)
        assert not told
        assert trained(scale, True, told) == expected
    assert told == [said]


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_inference_that_changes_python_s_state_runs_each_time(backend: str) -> None:
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    x, told, found = ag.ones(2, 3), list[str](), []
    with context.using(backend=backend), ag.no_grad():
        for traced in (False, True):
            ag.manual_seed(0)
            net = Net(attribute)
            call = ag.trace(net, tell=told.append) if traced else net
            found.append([call(x).tolist() for _ in range(5)])
    assert found[0] == found[1] and told == ["changes attribute n of Net"]


def prepare(net: Net) -> float:
    net.config.setdefault("prepared", True)
    return 1.0


@pytest.mark.usefixtures("one_thread")
def test_what_the_first_call_prepares_is_no_reason_to_run_each_time() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    told: list[str] = []
    net = Net(prepare)
    SGD(net.parameters(), lr=0.1)
    inference = ag.trace(net, tell=told.append)
    with context.using(backend="llvm"):
        inference(ag.ones(2, 3)), inference(ag.ones(2, 3))
        assert inference.programs and not inference.refused
        trained(prepare, True, told)
    assert not told


def test_the_user_is_warned_where_nobody_else_is_told() -> None:
    call = ag.trace(Net(attribute))
    call(ag.ones(2, 3))
    with pytest.warns(RuntimeWarning, match=r"^trace: the function changes attribute n of Net; it"):
        call(ag.ones(2, 3))


def test_refusals_need_not_be_errors() -> None:
    """Numbers that are read, and draws, as models have them in evaluation too."""
    call = ag.trace(lambda x: x * float(x.sum()) + 0 * ag.rand(1), strict=False)
    found = [call(ag.full((2,), number)).tolist() for number in (1.0, 2.0, 3.0)]
    assert found == [[2.0, 2.0], [8.0, 8.0], [18.0, 18.0]]
    assert [*call.refused.values()] == [
        "reads a tensor's numbers, which its calls would not do again"
    ]


@pytest.mark.parametrize(
    ("value", "other"),
    [(0.0, -0.0), (1, True), ([1], (1,)), ({1: 2}, {2: 1}), ({1}, {1, 2}), (b"a", "a"),
     (np.zeros(2), np.zeros((2, 1))), (np.float32(1), 1.0), ([0] * MOST * 2, [0] * MOST * 3)],
)  # fmt: skip
def test_snapshots_tell_values_apart(value: Any, other: Any) -> None:
    assert snapshot(value) == snapshot(value) != snapshot(other)


def test_snapshots_are_bounded() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    itself: list[Any] = [1, float("nan")]
    itself += [itself, itself]
    for value in (deep, itself, [*range(10 * MOST)], np.zeros(1 << 24), np.array([object()])):
        assert snapshot(value) == snapshot(value)
