"""Bags of rows of a table: torch's results, and what is no bag."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

IDS = np.array([2, 0, 3, 3, 1, 0, 3, 2])
CASES: dict[str, dict[str, Any]] = {
    "sum": {"mode": "sum"},
    "mean": {},
    "max": {"mode": "max"},
    "without a row": {"padding_idx": 3},
    "sums without a row": {"padding_idx": 0, "mode": "sum"},
    "largest without a row": {"padding_idx": -1, "mode": "max"},
    "the end is given": {"include_last_offset": True},
}


@pytest.mark.parity
@pytest.mark.parametrize("offsets", [None, [0, 3, 3, 8]])
@pytest.mark.parametrize("case", CASES)
def test_bags_are_torchs(case: str, offsets: list[int] | None) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.random.default_rng(0).standard_normal((4, 3))
    shape = (4, 2) if offsets is None else (8,)
    found = []
    for t in (ag, torch):
        weighted = CASES[case].get("mode") == "sum"
        layer = t.nn.EmbeddingBag.from_pretrained(t.tensor(numbers), freeze=False, **CASES[case])
        factors = t.tensor(np.arange(8.0).reshape(shape), requires_grad=True) if weighted else None
        starts = None if offsets is None else t.tensor(offsets)
        y = layer(t.tensor(IDS.reshape(shape)), starts, factors)
        (y * y).sum().backward()
        grads = [layer.weight.grad, *([] if factors is None else [factors.grad])]
        found.append([y.detach().numpy(), *[g.numpy() for g in grads]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_bags_of_nothing_are_zeros() -> None:
    bag = nn.EmbeddingBag(4, 3, mode="max", padding_idx=1)
    assert bag(ag.tensor([[1, 1]])).tolist() == [[0, 0, 0]] == bag(ag.zeros(1, 0).long()).tolist()
    assert bag(ag.tensor([], "int64"), ag.tensor([0, 0])).tolist() == [[0, 0, 0]] * 2
    assert not bag.weight[1].numpy().any()


@pytest.mark.parametrize(("options", "given", "said"), [
    ({"mode": "min"}, [[[0]]], "expected mode 'sum', or .*, got 'min'"),
    ({}, [[[0]], None, [[1.0]]], "without per_sample_weights, got 'mean'"),
    ({"mode": "sum"}, [[[0]], None, [1.0]], r"of shape \(1, 1\), got \(1,\)"),
    ({}, [[0, 1], [1]], r"ascend from 0 to 2, got \[1\]"),
    ({}, [[0, 1], [0, 2, 1]], r"ascend from 0 to 2, got \[0, 2, 1\]"),
    ({"include_last_offset": True}, [[0, 1], [0, 1]], r"ascend from 0 to 2, got \[0, 1\]"),
    ({"include_last_offset": True}, [[0, 1], []], r"ascend from 0 to 2, got \[\]"),
    ({}, [[0, 1], []], r"ascend from 0 to 2, got \[\]"),
    ({}, [[0, 1], [[0]]], r"ascend from 0 to 2, got \[\[0\]\]"),
    ({}, [[0, 1]], r"of 1 and offsets, got shape \(2,\)"),
])  # fmt: skip
def test_what_is_no_bag(options: dict[str, Any], given: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nn.EmbeddingBag(4, 3, **options)(*[None if x is None else ag.tensor(x) for x in given])


def test_the_row_of_padding_is_one_of_the_table() -> None:
    with pytest.raises(
        ValueError, match=r"embedding_bag: expected padding_idx in \[-4, 4\), got 5"
    ):
        ag.embedding_bag(ag.tensor([[1]]), ag.ones(4, 3), padding_idx=5)
