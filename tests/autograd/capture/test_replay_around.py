"""What recorded calls have to do with the rest of a program: gradients and those who wait for them,
memory that they write to, tensors that are laid elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context, nn
from tallygrad.autograd.optim import SGD
from tallygrad.autograd.tensor import Tensor

pytest.importorskip("llvmlite", reason="llvmlite is not installed")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def llvm() -> Iterator[context.Context]:
    with context.using(backend="llvm", ledger=ag.Ledger()) as state:
        yield state


def layer_of(size: int = 4) -> tuple[nn.Linear, SGD]:
    ag.manual_seed(1)
    layer = nn.Linear(size, 3)
    return layer, SGD(layer.parameters(), lr=0.1)


def traced_layer(layer: nn.Linear, seen: list[int]) -> Any:
    def step(x: Tensor) -> Tensor:
        seen.append(1)
        y = layer(x).sum()
        y.backward()
        return y

    return ag.trace(step, training=True)


@pytest.mark.usefixtures("llvm")
def test_gradients_are_added_to_those_that_are_there() -> None:
    (layer, sgd), seen = layer_of(), list[int]()
    step, x = traced_layer(layer, seen), ag.ones(2, 4)
    for _ in range(3):
        step(x)
        sgd.zero_grad()
    assert len(seen) == 2
    step(x)
    once = layer.weight.grad.numpy().copy()
    step(x)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), 2 * once)
    assert len(seen) == 3 and once.any()


@pytest.mark.usefixtures("llvm")
def test_whoever_waits_for_a_gradient_is_told_each_time_when_it_is_final() -> None:
    (layer, sgd), seen = layer_of(), list[int]()
    told: list[tuple[int, float]] = []
    for i, p in enumerate(layer.parameters()):
        p.post_grad_hooks.append(lambda leaf, i=i: told.append((i, float(leaf.grad.sum().item()))))
    step = traced_layer(layer, seen)
    for scale in (1.0, 2.0, 3.0, 4.0):
        step(ag.full((2, 4), scale))
        sgd.zero_grad()
    assert len(seen) == 2 and [i for i, _ in told] == [i for i, _ in told[:2]] * 4
    assert [g for i, g in told if i == 0] == [24.0, 48.0, 72.0, 96.0]


@pytest.mark.usefixtures("llvm")
def test_hooks_are_called_each_time() -> None:
    (layer, sgd), seen = layer_of(), list[int]()
    step, x = traced_layer(layer, seen), ag.ones(2, 4)
    for _ in range(3):
        step(x)
        sgd.zero_grad()
    layer.weight.register_hook(lambda g: g * 5.0)
    for n in (3, 4, 5):
        step(x)
        assert layer.weight.grad.tolist() == [[10.0] * 4] * 3 and len(seen) == n
        sgd.zero_grad()


@pytest.mark.usefixtures("llvm")
def test_buffers_that_change_places_have_recordings_of_their_own() -> None:
    norm, places = nn.BatchNorm2d(3).train(), []
    for _ in range(2):
        places.append([ag.zeros(3).array, ag.ones(3).array])
    step = ag.trace(lambda x: norm(x), training=True)
    twin, draw = nn.BatchNorm2d(3).train(), np.random.default_rng(0)
    for turn in range(8):
        x = ag.from_numpy(draw.standard_normal((4, 3, 8, 8), dtype=np.float32))
        for name, mine in zip(("running_mean", "running_var"), places[turn % 2], strict=True):
            getattr(norm, name).rebind(mine)
        np.testing.assert_array_equal(step(x).numpy(), twin(x).numpy())
        if turn % 2 == 0:
            held = places[1][0].value.copy()
    assert [len(found) for found in step.captured.values()] == [2]
    assert not np.array_equal(places[0][0].value, places[1][0].value)
    assert not np.array_equal(places[1][0].value, held)


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("training", [False, True])
def test_tensors_may_change_places(training: bool) -> None:
    a, b = ag.full((300,), 2.0), ag.full((300,), 3.0)
    traced = ag.trace(lambda x: x * a, training=training)
    for turn in range(6):
        assert traced(ag.ones(300)).tolist() == [2.0 + (turn % 2)] * 300
        assert traced(ag.ones(300)).tolist() == [2.0 + (turn % 2)] * 300
        mine, other = a.array, b.array
        a.rebind(other)
        b.rebind(mine)


@pytest.mark.usefixtures("llvm")
def test_whoever_waits_may_repeat_calls_himself() -> None:
    """What waits in the outer recording is not computed beside it."""
    layer = nn.Linear(4, 3)
    sgd = SGD(layer.parameters(), lr=0.1)
    inner = ag.trace(lambda x: x + 1.0, training=True)
    # Once a step, so that both are recorded in the second one.
    layer.bias.post_grad_hooks.append(lambda leaf: inner(ag.ones(300)))

    def step(x: Tensor) -> Tensor:
        large = ag.relu(x * 3.0)
        layer(x[:2, :4]).sum().backward()
        return large.sum()

    traced = ag.trace(step, training=True)
    for number in (1.0, 2.0, 3.0, 4.0):
        x = ag.full((300, 300), number)
        assert traced(x).item() == pytest.approx(3 * number * 90_000)
        sgd.zero_grad()


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("training", [False, True])
def test_readers_of_what_it_writes_come_first(training: bool) -> None:
    buffer = ag.relu(ag.ones(1 << 17))
    traced = ag.trace(lambda x: (buffer.copy_(x), x + 0.0)[1], training=training)
    for turn, number in enumerate((1.0, 10.0, 20.0, 30.0, 40.0)):
        waits = ag.relu(buffer)
        traced(ag.full((1 << 17,), number))
        assert waits.numpy()[0] == (1.0, 1.0, 10.0, 20.0, 30.0)[turn]
    w = ag.ones(1 << 17, requires_grad=True)
    product = (w * buffer).sum()
    traced(ag.ones(1 << 17))
    with pytest.raises(RuntimeError, match="changed in place"):
        product.backward()


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("training", [False, True])
def test_inputs_may_be_written_to(training: bool) -> None:
    traced = ag.trace(lambda x: (x.copy_(x * 2.0), x + 0.0)[1], training=training)
    for _ in range(4):
        x = ag.ones(300) + 0.0
        assert traced(x).tolist() == x.tolist() == [2.0] * 300


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("training", [False, True])
def test_bits_are_those_of_the_function_whoever_made_the_input(training: bool) -> None:
    ag.manual_seed(0)
    conv, norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16).train()

    def block(x: Tensor) -> Tensor:
        with ag.no_grad():
            return norm(conv(x))

    draw = np.random.default_rng(0).standard_normal((8, 32, 32, 16), dtype=np.float32)
    traced = ag.trace(block, training=training)
    double = ag.trace(lambda x: ag.relu(x) * 2.0, training=training)
    for make in (
        lambda: ag.from_numpy(draw.transpose(0, 3, 1, 2)),
        lambda: ag.from_numpy(draw.transpose(0, 3, 1, 2)) * 1.0,
        lambda: ag.from_numpy(np.ascontiguousarray(draw.transpose(0, 3, 1, 2))),
    ):
        for _ in range(4):
            np.testing.assert_array_equal(traced(make()).numpy(), block(make()).numpy())
            found, expected = block(double(make())), block(ag.relu(make()) * 2.0)
            np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("what", ["counts a step of an optimizer", "takes a gradient away"])
def test_a_step_that_updates_is_run_each_time(what: str) -> None:
    updates = what.startswith("counts")

    def stepping(layer: nn.Linear, sgd: SGD) -> Callable[[Tensor], Tensor]:
        def step(x: Tensor) -> Tensor:
            loss = (layer(x) * layer(x)).sum()
            loss.backward()
            (sgd.step if updates else sgd.zero_grad)()
            return loss

        return step

    twins = [layer_of(), layer_of()]
    for _, sgd in twins:
        sgd.groups[0].lr = lambda step: 0.1 / (1 + step)
    one, two = (stepping(*twin) for twin in twins)
    traced = ag.trace(two, training=True)
    for _ in range(6):
        assert one(ag.ones(2, 4)).item() == traced(ag.ones(2, 4)).item()
        for _, sgd in twins:
            sgd.zero_grad()
    assert what in " ".join(traced.refused.values()) and twins[1][1].steps == 6 * updates


@pytest.mark.usefixtures("llvm")
def test_what_changes_about_leaves_is_seen() -> None:
    (layer, sgd), seen = layer_of(), list[int]()
    step, x, told = traced_layer(layer, seen), ag.ones(2, 4), list[Tensor]()
    for _ in range(3):
        step(x)
        sgd.zero_grad()
    layer.bias.post_grad_hooks.append(told.append)
    step(x)
    assert len(seen) == 3 and told == [layer.bias]
    sgd.zero_grad()
    layer.bias.post_grad_hooks.clear()
    layer.weight.requires_grad_(False)
    step(x)
    assert layer.weight.grad is None and layer.bias.grad is not None
    wanting = ag.ones(2, 4, requires_grad=True)
    for _ in range(3):
        wanting.grad = None
        ag.trace(lambda x: (x * x).sum().backward() or x, training=True)(wanting)
        assert wanting.grad.tolist() == [[2.0] * 4] * 2


def test_the_ledger_tells_where_and_when_somebody_was_told() -> None:
    ledgers = []
    for wrap in (lambda f: f, lambda f: ag.trace(f, training=True)):
        layer, sgd = layer_of()
        layer.weight.post_grad_hooks.append(lambda leaf: ag.relu(leaf.grad))

        def forward_backward(x: Tensor, layer: nn.Linear = layer) -> Tensor:
            y = layer(x).sum()
            if y.requires_grad:
                y.backward()
            return y

        with context.using(backend="llvm", ledger=ag.Ledger()) as state:
            step = wrap(forward_backward)
            for turn in range(8):
                with ag.no_grad() if turn % 2 else ag.enable_grad():
                    step(ag.ones(2, 4))
                sgd.zero_grad()
        ledgers.append(state.ledger)
    assert ledgers[0] == ledgers[1] and ledgers[0].stashed == ledgers[1].stashed
    assert ("", "backward_weights", "relu") in {row.key[:3] for row in ledgers[1].rows()}


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("training", [False, True])
def test_what_comes_from_elsewhere_is_returned_as_it_is(backend: str, training: bool) -> None:
    weight = ag.Parameter(ag.ones(3))
    with context.using(backend=backend):
        traced = ag.trace(lambda x: (weight, x, x * 2.0), training=training)
        for _ in range(4):
            x = ag.ones(3)
            found = traced(x)
            for a, b in zip(found, (weight, x), strict=False):
                assert np.shares_memory(a.numpy(), b.numpy())
            assert not any(t.requires_grad for t in found)
        with pytest.raises(TypeError, match="expected tensors as results, got dict"):
            ag.trace(lambda x: {"x": x}, training=training)(ag.ones(2))


@pytest.mark.usefixtures("llvm")
def test_a_recording_that_cannot_begin_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = ag.trace(lambda x: x * 2.0, training=True)
    traced(ag.ones(300))
    with monkeypatch.context() as broken:
        broken.setattr(type(backends.get("llvm")), "recording", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            traced(ag.ones(300))
    free: list[bool] = []
    thread = Thread(target=lambda: free.append(traced.shared.lock.acquire(timeout=5)))
    thread.start()
    thread.join()
    assert free == [True]


@pytest.mark.usefixtures("llvm")
def test_a_step_may_write_to_what_it_computes() -> None:
    def step(x: Tensor) -> Tensor:
        y = x * 2.0
        y += 1.0
        return y.sum()

    traced = ag.trace(step, training=True)
    for number in (1.0, 2.0, 3.0, 4.0):
        assert traced(ag.full((300,), number)).item() == 300 * (2 * number + 1)
    assert not [*traced.refused.values()]
    assert [len(steps) for steps in traced.captured.values()] == [1]
