"""Whatever changes what a function does is seen by what `trace` made of it: the same bits,
gradients and counts as without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.capture.peak_memory import PeakMemory
from tallygrad.autograd.capture.sparsity import Sparsity
from tallygrad.autograd.memory import set_memory_limit
from tallygrad.autograd.optim import SGD
from tallygrad.autograd.tensor import Tensor

GLOBAL = 1.0


class Net(nn.Module):
    def __init__(self) -> None:
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.0)
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 4))
        self.extra: nn.Module | None = None
        self.scale, self.recompute = 1.0, False

    def forward(self, x: Tensor) -> Tensor:
        head = ag.checkpoint(self.first, x) if self.recompute else self.first(x)
        y = self.last(self.drop(ag.relu(self.norm(head)))) * self.scale
        return y if self.extra is None else self.extra(y)


class Case:
    """A net and what computes it, traced or not, all of it made by one seed."""

    def __init__(self, training: bool, traced: bool, frozen: bool = False) -> None:
        ag.manual_seed(3)
        self.net, factor, self.training = Net(), 1.0, training
        self.spare = nn.Linear(4, 4)
        parameters = [*self.net.parameters(), *self.spare.parameters()]
        self.sgd = SGD(parameters, lr=0.1) if training else None
        self.net.first.requires_grad_(not frozen)
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext

        def forward(x: Tensor) -> Tensor:
            return self.net(x) * factor * GLOBAL

        def step(x: Tensor) -> Tensor:
            y = forward(x)
            if y.requires_grad:
                (y * y).sum().backward()
            return y

        def set_factor(value: float) -> None:
            nonlocal factor
            factor = value

        self.set_factor = set_factor
        function = step if training else forward
        self.run = ag.trace(function, training=training) if traced else function

    def outcome(self, x: Tensor) -> list[Any]:
        """Return numbers, gradients, statistics and counts of a call."""
        ag.manual_seed(7)
        if self.sgd is not None:
            self.sgd.zero_grad()
        grads = nullcontext() if self.training else ag.no_grad()
        with context.using(ledger=ag.Ledger()) as state, grads, self.around():
            y = self.run(x).numpy().copy()
        tensors = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        given = {n: None if p.grad is None else p.grad.tolist() for n, p in tensors.items()}
        return [y, given, {n: b.tolist() for n, b in self.net.named_buffers()}, state.ledger]


Change: TypeAlias = Callable[[Case], object]


def _new_global(case: Case) -> None:
    global GLOBAL
    GLOBAL = 3.0


def _replaced(case: Case) -> None:
    case.net.last.add = None
    delattr(case.net.last, "1")
    setattr(case.net.last, "1", nn.Linear(4 * 8 * 8, 4))


def _elsewhere(case: Case) -> None:
    weight = case.net.first.weight
    weight.array = ag.tensor(weight.numpy() * 2.0).array


def _through_types(case: Case) -> None:
    if not case.training:  # an optimizer's parameters keep their type
        case.net.double()
        case.net.float()
        state = case.net.state_dict()
        case.net.load_state_dict({name: value + 0.25 for name, value in state.items()})


def _hook(case: Case) -> None:
    if case.training:
        case.net.first.weight.register_hook(lambda g: g * 5.0)


def _hook_and_gone(case: Case) -> None:
    if case.training:
        remove = case.net.first.weight.register_hook(lambda g: g * 5.0)
        for _ in range(2):
            case.outcome(ag.ones(2, 3, 8, 8))
        remove()


def _with(make: Callable[[], AbstractContextManager[Any]]) -> Change:
    return lambda case: setattr(case, "around", make)


def _set(path: str, value: Any) -> Change:
    """Return what sets an attribute below the net."""
    *names, last = path.split(".")

    def change(case: Case) -> None:
        owner: Any = case.net
        for name in names:
            owner = getattr(owner, name)
        setattr(owner, last, value() if callable(value) else value)

    return change


CHANGES: dict[str, Change] = {
    "frozen": lambda case: case.net.first.requires_grad_(False),
    "unfrozen": lambda case: case.net.first.requires_grad_(True),
    "attribute requires_grad": lambda case: setattr(case.net.first.bias, "requires_grad", False),
    "hook": _hook,
    "hook and gone": _hook_and_gone,
    "waits for a gradient": lambda c: c.net.first.weight.post_grad_hooks.append(lambda p: None),
    "parameter replaced": _set("first.weight", lambda: nn.Parameter(ag.ones(4, 3, 3, 3))),
    "parameter removed": _set("first.bias", None),
    "parameter laid elsewhere": _elsewhere,
    "parameter written": lambda case: case.net.first.weight.array.write(np.ones((4, 3, 3, 3))),
    "through other types": _through_types,
    "buffer replaced": _set("norm.running_mean", lambda: ag.ones(4)),
    "buffer laid elsewhere": lambda case: case.net.norm.running_mean.rebind(ag.ones(4).array),
    "module added": lambda case: setattr(case.net, "extra", case.spare),
    "module replaced": _replaced,
    "module's class": _set("last", lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 4))),
    "forward": _set("norm.forward", lambda: lambda x: x * 2.0),
    "flag of one module": lambda case: case.net.norm.eval(),
    "flag of all": lambda case: case.net.eval(),
    "eps": _set("norm.eps", 0.5),
    "momentum": _set("norm.momentum", 0.9),
    "stride": _set("first.dilation", (1, 1)),
    "dropout": _set("drop.p", 0.5),
    "number": _set("scale", -0.0),
    "recomputed": _set("recompute", True),
    "closure": lambda case: case.set_factor(2.0),
    "global": _new_global,
    "no gradients": _with(ag.no_grad),
    "numpy": _with(lambda: context.using(backend="numpy")),
    "direct": _with(lambda: context.using(backend="llvm:direct")),
    "phase": _with(lambda: context.using(phase="evaluate")),
    "ledger": _with(lambda: context.using(ledger=ag.Ledger())),
    "peak memory": _with(lambda: context.using(observer=PeakMemory(context.current().ledger))),
    "sparsity": _with(lambda: context.using(observer=Sparsity(context.current().ledger))),
    "threads": lambda case: ag.set_num_threads(2),
    "limit": lambda case: set_memory_limit(1 << 33),
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    global GLOBAL
    GLOBAL, threads = 1.0, ag.get_num_threads()
    ag.set_num_threads(1)
    yield
    GLOBAL = 1.0
    ag.set_num_threads(threads)
    set_memory_limit(0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_a_function_is_seen(name: str, training: bool, backend: str) -> None:
    if name == "direct":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    frozen = name == "unfrozen"
    plain, traced = (Case(training, kind, frozen) for kind in (False, True))
    draw = np.random.default_rng(1)
    for turn in range(6):
        if turn == 3:
            for case in (plain, traced):
                ag.manual_seed(11)
                CHANGES[name](case)
        x = ag.from_numpy(draw.standard_normal((2, 3, 8, 8), dtype=np.float32))
        if name == "dropout" and turn >= 3 and not training:
            with pytest.raises(RuntimeError, match="draws random numbers"):
                traced.outcome(x)
            return
        expected, found = plain.outcome(x), traced.outcome(x)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1:] == expected[1:]
        assert np.signbit(found[0]).tolist() == np.signbit(expected[0]).tolist()


@pytest.mark.parametrize("training", [False, True])
def test_equal_values_and_other_modules_cost_nothing(training: bool, backend: str) -> None:
    """Only what the function looks at has it learned anew."""
    seen = []
    net, other = Net(), nn.Linear(2, 2)
    sgd = SGD(net.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        seen.append(1)
        y = net(x).sum()
        if training:
            y.backward()
        return y

    traced = ag.trace(step, training=training)
    for turn in range(8):
        with nullcontext() if training else ag.no_grad():
            traced(ag.ones(2, 3, 8, 8))
        sgd.zero_grad()
        net.train(turn % 2 == 1)
        net.train()
        net.norm.eps, net.scale = float("1e-5"), float("1.0")
        other.weight = nn.Parameter(ag.ones(2, 2))
    assert len(seen) == (8 if training and backend == "numpy" else 2)


@pytest.mark.usefixtures("backend")
def test_partials_and_methods_have_their_object_looked_at() -> None:
    net = Net().eval()
    for function in (net.forward, partial(net.forward)):
        traced, x = ag.trace(function), ag.ones(1, 3, 8, 8)
        for scale in (1.0, 1.0, 2.0, 2.0):
            net.scale = scale
            with ag.no_grad():
                np.testing.assert_array_equal(traced(x).numpy(), net(x).numpy())


class Settings:
    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 1.0


class Learner:
    """A net in an object that is no module, as in scripts."""

    offset = 0.0

    def __init__(self) -> None:
        self.net, self.settings, self.weight = Net().eval(), Settings(), ag.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shifted(self.net(x)) * self.settings.factor

    def shifted(self, y: Tensor) -> Tensor:
        return y * self.weight + self.offset

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


OBJECTS: dict[str, Callable[[Learner], object]] = {
    "module replaced": lambda o: setattr(o, "net", Net().eval()),
    "module loaded": lambda o: o.net.load_state_dict(Net().state_dict()),
    "number of the class": lambda o: setattr(Learner, "offset", 2.0),
    "number": lambda o: setattr(o, "offset", 3.0),
    "number in an object of the object": lambda o: setattr(o.settings, "factor", 2.0),
    "object replaced": lambda o: setattr(o, "settings", Settings()),
    "tensor replaced": lambda o: setattr(o, "weight", ag.full((4,), 2.0)),
    "tensor's memory": lambda o: o.weight.mul_(3.0),
    "method replaced": lambda o: setattr(o, "shifted", lambda y: y * 5.0),
}


@pytest.mark.parametrize("called", ["method", "object", "closure"])
@pytest.mark.parametrize("name", OBJECTS)
def test_attributes_of_objects_are_looked_at(
    name: str, called: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "offset", 0.0)
    learner = Learner()
    functions = {"method": learner.forward, "object": learner, "closure": lambda x: learner(x)}
    traced, x = ag.trace(functions[called]), ag.randn(1, 3, 8, 8)
    with context.using(backend=backend), ag.no_grad():
        for change in (None, None, None, OBJECTS[name], None, None):
            if change is not None:
                change(learner)
            np.testing.assert_array_equal(traced(x).numpy(), learner(x).numpy())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("read", ["detach", "copy_", "lift"])
def test_tensors_that_are_read_past_the_tape_are_seen(read: str) -> None:
    held, to = ag.full((3,), 2.0), ag.zeros(3)
    reads: dict[str, Callable[[Tensor], Tensor]] = {
        "detach": lambda x: x * held.detach(),
        "copy_": lambda x: (to.copy_(held), x * to)[1],
        "lift": lambda x: (to.copy_(x), to.copy_(held), to + 0.0)[2],
    }
    traced = ag.trace(reads[read])
    for turn in range(8):
        expected = 2.0 if turn < 4 else 5.0
        if turn == 4:
            held.array = ag.full((3,), 5.0).array
        assert traced(ag.ones(3)).tolist() == [expected] * 3


@pytest.mark.usefixtures("backend")
def test_hooks_of_computed_tensors_are_called_each_time() -> None:
    layer, seen = nn.Linear(4, 3), list[int]()
    sgd = SGD(layer.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        y = layer(x)
        y.register_hook(lambda g: seen.append(1))
        y.sum().backward()
        return y

    traced = ag.trace(step, training=True)
    for _ in range(5):
        traced(ag.ones(2, 4))
        sgd.zero_grad()
    assert len(seen) == 5


def test_what_a_function_itself_changes_is_no_change() -> None:
    counts = SimpleNamespace(runs=0)
    net = Net().eval()

    def classify(x: Tensor) -> Tensor:
        counts.runs += 1
        net.calls = counts.runs
        return net(x)

    traced = ag.trace(classify)
    with ag.no_grad():
        for _ in range(4):
            traced(ag.ones(1, 3, 8, 8))
    assert counts.runs == 1
