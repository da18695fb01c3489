"""Weight norm, spectral norm, parametrizations and vectors of parameters: torch's, and the tape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn, optim
from tallygrad.autograd.nn import utils
from tallygrad.autograd.nn.utils import parametrizations, parametrize

Wrap = Callable[[Any, Any], Any]  # a module of functions such as nn.utils, a layer
WRAPS: dict[str, Wrap] = {
    "weight_norm": lambda u, m: u.weight_norm(m),
    "weight_norm of the whole": lambda u, m: u.weight_norm(m, dim=None),
    "weight_norm along 1": lambda u, m: u.weight_norm(m, "weight", 1),
    "spectral_norm": lambda u, m: u.spectral_norm(m),
    "spectral_norm of 2 steps": lambda u, m: u.spectral_norm(m, n_power_iterations=2),
    "new weight_norm": lambda u, m: u.parametrizations.weight_norm(m),
    "new spectral_norm": lambda u, m: u.parametrizations.spectral_norm(m),
    "new spectral_norm along 1": lambda u, m: u.parametrizations.spectral_norm(m, dim=1),
}
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "linear": (lambda n: n.Linear(5, 3), (4, 5)),
    "transposed": (lambda n: n.ConvTranspose2d(2, 3, 2), (2, 2, 3, 3)),
}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_forward_gradients_and_names_are_torchs(wrap: Wrap, layer: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    theirs = wrap(torch.nn.utils, make(torch.nn).double())
    mine = wrap(utils, make(nn).double())
    state = {name: t.numpy() for name, t in theirs.state_dict().items()}
    assert mine.load_state_dict(state) == ([], [])
    x = np.random.default_rng(0).standard_normal(shape)
    for _ in range(3):
        (mine(ag.tensor(x)) ** 2).sum().backward()
        (theirs(torch.tensor(x)) ** 2).sum().backward()
    expected = dict(theirs.named_parameters())
    assert {*dict(mine.named_parameters())} == {*expected}
    for name, p in mine.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), expected[name].grad.numpy(), 1e-9, 1e-12)
    for name, numbers in mine.state_dict().items():
        np.testing.assert_allclose(numbers, theirs.state_dict()[name].numpy(), 1e-9, 1e-12)
    mine.eval(), theirs.eval()
    y = mine(ag.tensor(x)).numpy()
    np.testing.assert_allclose(y, theirs(torch.tensor(x)).detach().numpy(), 1e-9, 1e-12)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_an_optimizer_trains_it_in_a_replayed_step_and_removal_keeps_the_weight(
    wrap: Wrap,
) -> None:
    results = []
    for traced in (False, True):
        ag.manual_seed(3)
        layer = wrap(utils, nn.Linear(64, 64))
        sgd = optim.SGD(layer.parameters(), lr=0.1)

        def step(x: ag.Tensor, layer: Any = layer) -> ag.Tensor:
            loss = (layer(x) ** 2).mean()
            loss.backward()
            return loss

        run = ag.trace(step, training=True) if traced else step
        for _ in range(4):
            sgd.zero_grad()
            run(ag.ones(8, 64))
            sgd.step()
        results.append(layer.weight.detach().numpy().copy())
        layer.eval()
        weight = layer.weight.numpy().copy()
        if hasattr(layer, "parametrizations"):
            parametrize.remove_parametrizations(layer, "weight")
        else:
            name = "weight_norm" if hasattr(layer, "weight_g") else "spectral_norm"
            getattr(utils, f"remove_{name}")(layer)
        assert type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter)
        np.testing.assert_array_equal(layer.weight.numpy(), weight)
        assert {*layer.state_dict()} == {"weight", "bias"}
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_two_forwards_may_come_before_the_backward(wrap: Wrap) -> None:
    layer = wrap(utils, nn.Linear(5, 3))
    (layer(ag.ones(1, 5)).sum() - layer(ag.zeros(1, 5)).sum()).backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_spectral_norm_makes_the_largest_singular_value_1() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 4))
    assert np.linalg.svd(layer.eval().weight.numpy())[1][0] == pytest.approx(1, rel=1e-2)


class Symmetric(nn.Module):
    def forward(self, w: ag.Tensor) -> ag.Tensor:
        return w.triu() + w.triu(1).T


class Double(nn.Module):
    def forward(self, w: ag.Tensor) -> ag.Tensor:
        return w * 2


def test_parametrizations_of_the_users_own() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Double())
    parametrize.register_parametrization(layer, "bias", Double())
    assert parametrize.is_parametrized(layer, "bias") and parametrize.is_parametrized(layer)
    w = layer.weight.numpy()
    np.testing.assert_array_equal(w, w.T)
    assert layer.parametrizations.weight.original is before
    twin = copy.deepcopy(layer)
    twin.parametrizations.bias.original.array.write(np.ones(3, np.float32))
    assert twin.bias.tolist() == [2, 2, 2] and layer.bias.tolist() != [2, 2, 2]
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert layer.weight is before and parametrize.is_parametrized(layer, "bias")
    parametrize.remove_parametrizations(layer, "bias")
    assert not parametrize.is_parametrized(layer) and not hasattr(layer, "parametrizations")


class Flat(nn.Module):
    def forward(self, w: ag.Tensor) -> ag.Tensor:
        return w.reshape(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: utils.weight_norm(m, "wieght"), "expected a parameter 'wieght', got NoneType"),
        (lambda m: utils.weight_norm(utils.weight_norm(m)), "'weight', got a computed tensor"),
        (utils.remove_weight_norm, "remove_weight_norm: expected a 'weight' with weight_norm, got"),
        (
            lambda m: parametrize.register_parametrization(m, "weight", Flat()),
            r"weight: expected a result of shape \(2, 3\), got \(6,\)",
        ),
        (
            lambda m: parametrize.remove_parametrizations(m, "weight"),
            "expected a parametrized 'weight', got one that is not",
        ),
        (
            lambda m: parametrize.remove_parametrizations(
                parametrizations.weight_norm(m), "weight", False
            ),
            r"expected one original, got \['original0', 'original1'\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(nn.Linear(3, 2))


def test_parameters_as_a_vector_and_back() -> None:
    layer = nn.Linear(3, 2)
    vector = utils.parameters_to_vector(layer.parameters())
    vector.sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.numpy().tolist() == [[1.0] * 3] * 2
    utils.vector_to_parameters(ag.arange(8).float(), layer.parameters())
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]] and layer.bias.tolist() == [6, 7]
    with pytest.raises(ValueError, match=r"vector_to_parameters: expected shape \(8,\), got \(9"):
        utils.vector_to_parameters(ag.ones(9), layer.parameters())
