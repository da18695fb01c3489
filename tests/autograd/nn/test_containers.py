"""Modules and parameters by key and in lists: names, scopes, state, keys that do not do."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn


class Net(nn.Module):
    def __init__(self) -> None:
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Sequential(nn.Linear(2, 1))})
        self.scales = nn.ParameterList([ag.ones(2), nn.Parameter(ag.zeros(1))])
        self.named = nn.ParameterDict({"shift": ag.ones(3)})

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        y = self.heads["a"](x * self.scales[0]) + self.named["shift"]
        return y + self.heads["b"](x) + self.scales[-1]


def test_names_scopes_and_gradients() -> None:
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    assert names == [
        "heads.a.weight", "heads.a.bias", "heads.b.0.weight", "heads.b.0.bias", "scales.0",
        "scales.1", "named.shift",
    ]  # fmt: skip
    with context.using(ledger=ag.Ledger()) as state:
        net(ag.ones(4, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    scopes = {row.key.scope for row in state.ledger if row.key.primitive == "linear"}
    assert scopes == {"heads.a", "heads.b.0"}
    twin = Net()
    twin.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(twin(ag.ones(1, 2)).numpy(), net(ag.ones(1, 2)).numpy())


def test_what_is_held_by_key() -> None:
    modules = nn.ModuleDict({"relu": nn.ReLU()})
    modules["fc"] = nn.Linear(1, 1)
    modules.update([("relu", nn.Tanh())])
    assert [*modules] == ["relu", "fc"] and len(modules) == 2 and "fc" in modules
    assert isinstance(modules["relu"], nn.Tanh) and [*modules.keys()] == [*modules]
    assert modules.pop("fc") not in [*modules.values()] and "fc" not in modules
    with pytest.raises(KeyError, match=r"ModuleDict: expected one of \['relu'\], got 'fc'"):
        modules["fc"]
    for wrong in ("a.b", "", "forward", "training"):
        with pytest.raises(ValueError, match=r"^ModuleDict: expected an unused key .+ got '"):
            modules[wrong] = nn.ReLU()
    with pytest.raises(TypeError, match=r"^ModuleDict: expected a Module, got Tensor$"):
        modules["x"] = ag.ones(1)


def test_what_is_held_in_a_list() -> None:
    values = nn.ParameterList()
    values.append(ag.ones(1)).extend([ag.zeros(2), ag.zeros(3)])
    values[-1] = ag.ones(4)
    assert [p.size for p in values] == [1, 2, 4] and len(values) == 3
    assert all(isinstance(p, nn.Parameter) for p in values)
    with pytest.raises(TypeError, match=r"^parameter: expected a Tensor, got int$"):
        values.append(3)


@pytest.mark.parity
def test_bilinear_as_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours, theirs = nn.Bilinear(3, 2, 4).double(), torch.nn.Bilinear(3, 2, 4).double()
    assert np.abs(ours.weight.numpy()).max() <= 1 / np.sqrt(3)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((5, 3)), draw.standard_normal((5, 2))
    expected = theirs(torch.tensor(a), torch.tensor(b)).detach().numpy()
    np.testing.assert_allclose(ours(ag.tensor(a), ag.tensor(b)).numpy(), expected, rtol=1e-12)


def test_containers_hold_modules_only() -> None:
    with pytest.raises(TypeError, match="Sequential: 1: expected a Module, got the class ReLU"):
        nn.Sequential(nn.Identity(), cast(Any, nn.ReLU))
    layers = nn.ModuleList([nn.Identity()])
    with pytest.raises(TypeError, match="ModuleList: 1: expected a Module, got 3"):
        layers.append(cast(Any, 3))
    with pytest.raises(TypeError, match="ModuleList: 0: expected a Module, got None"):
        layers[0] = cast(Any, None)
    assert len(layers) == 1
