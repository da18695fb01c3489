"""Pruning: torch's masks, names and sequence of prunings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn
from tallygrad.autograd.nn.utils import prune

Prune = Callable[[Any, Any], Any]
WAYS: dict[str, Prune] = {
    "share": lambda p, m: p.l1_unstructured(m, "weight", 0.3),
    "number": lambda p, m: p.l1_unstructured(m, name="weight", amount=4),
    "twice": lambda p, m: p.l1_unstructured(p.l1_unstructured(m, "weight", 0.5), "weight", 0.5),
    "channels": lambda p, m: p.ln_structured(m, "weight", amount=2, n=2, dim=0),
    "largest": lambda p, m: p.ln_structured(m, "weight", 0.4, n=float("inf"), dim=1),
    "channels, then elements": lambda p, m: p.l1_unstructured(
        p.ln_structured(m, "weight", 1, 1, 0), "weight", 0.5
    ),
    "elements, then channels": lambda p, m: p.ln_structured(
        p.l1_unstructured(m, "weight", 0.5), "weight", 0.5, 2, 0
    ),
    "identity": lambda p, m: p.identity(m, "weight"),
}


@pytest.mark.parity
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_masks_and_gradients_are_torchs(way: Prune) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    others = import_module("torch.nn.utils.prune")
    theirs, mine = torch.nn.Linear(6, 5), nn.Linear(6, 5)
    mine.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    assert way(others, theirs) is theirs and way(prune, mine) is mine
    mine(ag.ones(2, 6)).sum().backward()
    theirs(torch.ones(2, 6)).sum().backward()
    state = theirs.state_dict()
    assert {*mine.state_dict()} == {*state} == {"bias", "weight_orig", "weight_mask"}
    for name, numbers in mine.state_dict().items():
        np.testing.assert_array_equal(numbers, state[name].numpy())
    gradient = mine.get_parameter("weight_orig").grad
    assert gradient is not None
    np.testing.assert_array_equal(gradient.numpy(), theirs.weight_orig.grad.numpy())
    assert prune.is_pruned(nn.Sequential(mine))
    weight = mine.weight.numpy().copy()
    prune.remove(mine, "weight")
    assert not prune.is_pruned(mine) and {*mine.state_dict()} == {"bias", "weight"}
    np.testing.assert_array_equal(mine.weight.numpy(), weight)


@pytest.mark.parity
def test_a_global_order_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    others = import_module("torch.nn.utils.prune")
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
    mine = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    mine.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    for _ in range(2):
        for p, model in ((prune, mine), (others, theirs)):
            p.global_unstructured(
                [(m, "weight") for m in model], pruning_method=p.L1Unstructured, amount=0.4
            )
    for name, numbers in mine.state_dict().items():
        np.testing.assert_array_equal(numbers, theirs.state_dict()[name].numpy())


@pytest.mark.parametrize("structured", [False, True])
def test_random_masks_follow_from_the_seed(structured: bool) -> None:
    masks = []
    for seed in (1, 1, 2):
        layer = nn.Linear(8, 8)
        ag.manual_seed(seed)
        if structured:
            prune.random_structured(layer, "weight", 0.5, dim=1)
        else:
            prune.random_unstructured(layer, "weight", 0.5)
        masks.append(layer.get_buffer("weight_mask").numpy())
    assert all(mask.sum() == 32 for mask in masks)
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()
    if structured:
        assert (masks[0] == masks[0][0]).all()


def test_a_mask_of_the_users_own() -> None:
    layer = nn.Linear(2, 2)
    prune.custom_from_mask(layer, "weight", ag.tensor([[1, 0], [1, 1]]))
    prune.custom_from_mask(layer, "weight", ag.tensor([[1, 1], [0, 1]]))
    assert layer.get_buffer("weight_mask").tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: prune.l1_unstructured(m, "weight", 1.5), r"a share in \[0, 1\], got 1.5"),
        (lambda m: prune.l1_unstructured(m, "weight", 7), "expected an amount of 0 to 6, got 7"),
        (lambda m: prune.identity(m, "w"), "identity: expected a parameter 'w', got NoneType"),
        (lambda m: prune.remove(m, "weight"), "expected a pruned 'weight', got one that is not"),
        (
            lambda m: prune.custom_from_mask(m, "weight", ag.ones(3)),
            r"custom_from_mask: expected shape \(2, 3\), got \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(nn.Linear(3, 2))
