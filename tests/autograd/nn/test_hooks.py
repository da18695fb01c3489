"""Hooks of modules, and what is found in them by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn


def test_hooks_change_arguments_and_results_and_can_be_removed() -> None:
    layer = nn.Linear(2, 3)
    x, seen = ag.ones(4, 2), []
    plain = layer(x).numpy().copy()
    first = layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    second = layer.register_forward_hook(lambda m, args, y: seen.append((m, args[0], y)))
    third = layer.register_forward_hook(lambda m, args, y: y - y.detach())
    assert not layer(x).numpy().any()
    (module, doubled, result) = seen.pop()
    assert module is layer and doubled.numpy().sum() == 16
    np.testing.assert_allclose(result.numpy(), layer.forward(x * 2).numpy(), rtol=1e-6)
    for handle in (first, second, third):
        handle.remove()
        handle.remove()  # a second time does nothing
    np.testing.assert_array_equal(layer(x).numpy(), plain)
    assert not seen


def test_hooks_take_keywords_and_an_order() -> None:
    calls: list[str] = []

    class Scale(nn.Module):
        def forward(self, x: ag.Tensor, by: float = 1.0) -> ag.Tensor:
            return x * by

    layer = nn.Sequential(Scale())[0]
    layer.register_forward_hook(lambda *_: calls.append("second"))
    layer.register_forward_hook(lambda *_: calls.append("first"), prepend=True)
    with layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True
    ):
        assert layer(ag.ones(1), by=2.0).item() == 3
    layer.register_forward_hook(lambda m, args, kwargs, y: y * kwargs["by"], with_kwargs=True)
    assert layer(ag.ones(1), by=2.0).item() == 4
    assert calls == ["first", "second"] * 2


def test_the_ledger_has_the_work_of_a_hook_below_the_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda m, args, y: ag.linear(y, ag.ones(5, 2)))
    with ag.context.using(ledger=ag.Ledger()) as state:
        model(ag.ones(1, 2))
    assert {row.key.scope for row in state.ledger} == {"0"}
    assert state.ledger.total().macs == 4 + 10


def test_a_traced_step_calls_hooks_each_time_and_inference_refuses_them() -> None:
    layer, seen = nn.Linear(2, 1), []
    for training in (True, False):
        traced = ag.trace(lambda x: layer(x), training=training)
        for _ in range(3):
            traced(ag.ones(1, 2))
        with layer.register_forward_hook(lambda m, args, y: seen.append(y)):
            if training:
                for _ in range(3):
                    traced(ag.ones(1, 2))
            else:
                with pytest.raises(RuntimeError, match="trace: the function calls hooks of a mod"):
                    traced(ag.ones(1, 2))
        traced(ag.ones(1, 2))
    assert len(seen) == 3


def test_hooks_of_tensors_are_removed_by_handle() -> None:
    x, seen = ag.ones(1, requires_grad=True), []
    with x.register_hook(seen.append):
        (x * 2).backward()
    (x * 2).backward()
    y = x * 3
    handle = y.register_hook(seen.append)
    handle()  # a call removes, too
    y.backward()
    assert len(seen) == 1


def test_parts_are_found_by_full_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.add_module("last", nn.Linear(2, 1))
    assert model.get_submodule("") is model and model.get_submodule("last") is model[2]
    assert model.get_parameter("1.weight") is model[1].weight
    assert model.get_buffer("1.running_var") is model[1].running_var
    with pytest.raises(AttributeError, match=r"unknown parameter '1.wieght'; did you mean '1.we"):
        model.get_parameter("1.wieght")
    with pytest.raises(TypeError, match="next: expected a Module or None, got int"):
        model.add_module("next", 3)  # type: ignore[arg-type]


def test_series_have_slices_and_grow() -> None:
    layers: list[Any] = [nn.Linear(1, 1) for _ in range(4)]
    model = nn.Sequential(*layers[:2]).append(layers[2]).extend([layers[3]])
    assert [*model] == layers and [name for name, _ in model.named_children()] == [*"0123"]
    part = model[1:3]
    assert isinstance(part, nn.Sequential) and [*part] == layers[1:3]
    np.testing.assert_array_equal(
        part(ag.ones(1, 1)).numpy(), layers[2](layers[1](ag.ones(1, 1))).numpy()
    )
    assert nn.ModuleList(layers)[::-2] == [layers[3], layers[1]]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backward_hooks_are_torchs() -> None:
    """With gradients of arguments and results, and in their place what the hook returns."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    seen: list[list[Any]] = []
    for t in (ag, torch):
        layer = t.nn.Linear(3, 2)
        with t.no_grad():
            layer.weight.fill_(0.5)
        found: list[Any] = []

        def hook(module: Any, into: Any, out: Any, found: list[Any] = found) -> Any:
            found += [[None if g is None else g.tolist() for g in (*into, *out)]]
            return (into[0] * 2,) if into[0] is not None else None

        x = t.tensor(numbers, requires_grad=True)
        handle = layer.register_full_backward_hook(hook)
        for y in (layer(x * 3), layer(x) * 2, layer(t.tensor(numbers))):
            y.sum().backward()
        handle.remove()
        layer(x).sum().backward()
        seen.append([*found, x.grad.tolist(), layer.weight.grad.tolist()])
    assert seen[0] == seen[1] and len(seen[0]) == 5


def test_a_backward_hook_of_several_arguments() -> None:
    """It sees all gradients, and can replace none."""
    layer, found = nn.Bilinear(2, 3, 1), []
    handle = layer.register_full_backward_hook(
        lambda module, into, out: found.append([g.shape for g in (*into, *out)])
    )
    x, y = ag.randn(4, 2, requires_grad=True), ag.randn(4, 3, requires_grad=True)
    loss = layer(x, y).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert found == [[(4, 2), (4, 3), (4, 1)]] * 2
    handle.remove()
    layer.register_full_backward_hook(lambda module, into, out: into)
    with pytest.raises(RuntimeError, match="expected a hook that returns None for several"):
        layer(x, y).sum().backward()
