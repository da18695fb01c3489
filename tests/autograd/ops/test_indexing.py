"""Choosing and ordering beyond single results: masks, shapes that depend on numbers, positions out
of range, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.testing import gradcheck

DRAWN = np.random.default_rng(0).standard_normal((3, 4))
MASK = DRAWN > 0


@pytest.mark.parametrize(
    "select",
    [
        lambda x: x[x > 0],
        lambda x: x[MASK],
        lambda x: x[:, [True, False, True, False]],
        lambda x: x[..., MASK[1]],
        lambda x: x[MASK[:, 0], 1:],
        lambda x: x.masked_select(x > 0),
        lambda x: x.masked_select(x[:, :1] > 0),
        lambda x: x[x > 9],
    ],
)
def test_masks_select_as_in_numpy(select: Callable[[Any], Any]) -> None:
    class Numbers(np.ndarray):
        def masked_select(self, mask: Any) -> Any:
            return self[np.broadcast_to(mask, self.shape)]

    y = select(ag.from_numpy(DRAWN))
    np.testing.assert_array_equal(y.numpy(), np.asarray(select(DRAWN.view(Numbers))))
    gradcheck(select, [DRAWN])


def test_masks_that_do_not_fit() -> None:
    x = ag.from_numpy(DRAWN)
    with pytest.raises(IndexError, match=r"^index: expected a mask of shape \(4,\), got \(3,\)$"):
        x[:, MASK[:, 0]]
    with pytest.raises(IndexError, match=r"^index: expected up to 2 indices .* got 3 and 0$"):
        x[0, MASK]
    with pytest.raises(TypeError, match=r"^masked_fill: expected a mask of truth values, got int"):
        x.masked_fill(ag.arange(4), 0.0)
    with pytest.raises(TypeError, match=r"^masked_fill: expected a value that int64 holds, got 0"):
        ag.arange(4).masked_fill(ag.arange(4) > 2, 0.5)


def test_a_trace_does_not_record_what_a_mask_selects() -> None:
    for mask in (ag.from_numpy(MASK), MASK):
        traced = ag.trace(lambda x, mask=mask: x[mask])
        with ag.no_grad(), pytest.raises(RuntimeError, match="reads"):
            traced(ag.from_numpy(DRAWN))


ODD = np.array([3, 1, 3, 0, 7, 1], np.int64)


@pytest.mark.parity
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_parts_that_occur_as_in_torch(dim: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.random.default_rng(0).integers(0, 2, (6, 2, 3))
    options = {"return_inverse": True, "return_counts": True, "dim": dim}
    pairs = zip(ag.tensor(x).unique(**options), torch.tensor(x).unique(**options), strict=True)
    assert all(a.tolist() == b.tolist() for a, b in pairs)
    shapes = [ag.unique(ag.zeros(*shape), dim=0).shape for shape in ((0, 3), (3, 0))]
    assert shapes == [(0, 3), (1, 0)]


def test_what_occurs() -> None:
    x = ag.from_numpy(ODD).reshape(2, 3)
    values, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    assert values.tolist() == [0, 1, 3, 7] and counts.tolist() == [1, 2, 2, 1]
    assert values[inverse].tolist() == x.tolist() and x.unique().tolist() == values.tolist()
    assert ag.unique(ag.zeros(0)).shape == (0,)
    assert ag.bincount(x.flatten()).tolist() == [1, 2, 0, 2, 0, 0, 0, 1]
    weights = ag.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert ag.bincount(x.flatten(), weights, 9).tolist() == [8, 34, 0, 5, 0, 0, 0, 16, 0]
    for wrong in (x, ag.zeros(3), ag.tensor([2, -1])):
        with pytest.raises(ValueError, match=r"^bincount: expected .+, got .+"):
            ag.bincount(wrong)


def test_what_is_not_zero() -> None:
    x = ag.tensor([[0, 2], [3, 0], [0, 0]])
    assert ag.nonzero(x).tolist() == [[0, 1], [1, 0]]
    assert [a.tolist() for a in ag.nonzero(x > 2, as_tuple=True)] == [[1], [0]]
    assert ag.nonzero(ag.tensor(5)).shape == (1, 0)


@pytest.mark.parametrize("descending", [False, True])
def test_order_of_equal_numbers_and_of_none(descending: bool) -> None:
    x = ag.tensor([1.0, np.nan, 0.0, 1.0, -np.inf, 0.0])
    up, down = [4, 2, 5, 0, 3, 1], [1, 0, 3, 2, 5, 4]
    values, places = x.sort(descending=descending)
    assert places.tolist() == (down if descending else up)
    np.testing.assert_array_equal(values.numpy(), x.numpy()[places.numpy()])
    assert x.topk(3, largest=descending).indices.tolist() == places.tolist()[:3]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, i: x.gather(0, i), "gather"),
        (lambda x, i: x.scatter(0, i, 1.0), "scatter"),
        (lambda x, i: x.scatter_add(0, i, ag.ones(1, 2)), "scatter_add"),
        (lambda x, i: ag.embedding(i, x), "embedding"),
    ],
)
@pytest.mark.parametrize("wrong", [-1, 4])
def test_positions_out_of_range(call: Callable[..., Any], name: str, wrong: int) -> None:
    x, index = ag.ones(4, 2), ag.tensor([[0, wrong]])
    message = rf"^{name}: expected positions in \[0, 4\), got {wrong}$"
    with pytest.raises(IndexError, match=message):
        call(x, index)
    with pytest.raises(TypeError, match="expected positions as integers, got float32"):
        call(x, index.float())


def test_in_place() -> None:
    x, index = ag.zeros(2, 3), ag.tensor([[0, 0, 1]])
    x.scatter_(0, index, 2.0)
    x.scatter_add_(0, index, ag.ones(1, 3))
    x.index_add_(1, ag.tensor([0, 0]), ag.ones(2, 2), alpha=10)
    assert x.tolist() == [[23, 3, 0], [20, 0, 3]]
    x.masked_fill_(x > 20, -1.0)
    assert x.tolist() == [[-1, 3, 0], [20, 0, 3]]


def test_repeats_of_each_part() -> None:
    x = ag.from_numpy(DRAWN)
    y = ag.repeat_interleave(x, ag.tensor([2, 0, 1]), 0)
    np.testing.assert_array_equal(y.numpy(), DRAWN.repeat([2, 0, 1], 0))
    with pytest.raises(ValueError, match=r"^repeat_interleave: expected 3 numbers .* from -1$"):
        ag.repeat_interleave(x, ag.tensor([2, -1, 1]), 0)


@pytest.mark.parity
@pytest.mark.parametrize("padding", [None, -2])
def test_embedding_as_in_torch(padding: int | None) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ids = np.array([[0, 2, 2], [3, 1, 2]])
    theirs = torch.nn.Embedding(4, 5, padding)
    ours = nn.Embedding(4, 5, padding)
    assert padding is None or not ours.weight[padding].numpy().any()
    ours.load_state_dict({"weight": theirs.weight.detach().numpy()})
    top = np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)
    y, z = ours(ag.from_numpy(ids)), theirs(torch.tensor(ids))
    y.backward(ag.from_numpy(top))
    z.backward(torch.tensor(top))
    np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
    assert ours.weight.grad is not None
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)
    fixed = nn.Embedding.from_pretrained(ours.weight.detach(), padding_idx=padding)
    assert not fixed.weight.requires_grad
    np.testing.assert_array_equal(fixed(ag.from_numpy(ids)).numpy(), y.numpy())


def test_gradient_of_a_gradient_beside_the_padding() -> None:
    ids, top = ag.tensor([0, 2]), ag.tensor([[1.0], [2.0]], requires_grad=True)
    w = ag.ones(3, 1, requires_grad=True)
    (dw,) = ag.grad(ag.embedding(ids, w, 2), [w], top, create_graph=True)
    (slope,) = ag.grad(dw, [top], ag.full((3, 1), 5.0))
    assert dw.tolist() == [[1], [0], [0]] and slope.tolist() == [[5], [0]]


def test_the_gradient_of_a_table_counts_the_rows_that_are_named() -> None:
    w = ag.Parameter(ag.ones(1000, 8))
    with context.using(ledger=ag.Ledger()) as state:
        (ag.embedding(ag.tensor([3, 3, 5]), w) * 1.0).sum().backward()
    (row,) = [row for row in state.ledger if row.key.primitive == "embedding_dw"]
    assert row.cost.add == 3 * 8 and row.key.phase == "backward_weights"
