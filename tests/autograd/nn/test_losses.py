"""Losses of several labels and of one's own distance as layers: torch's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag

X, TRUTHS = np.random.default_rng(0).standard_normal((3, 4)), np.eye(4)[:3] + np.eye(4)[1:]
LABELS = np.array([[1, 3, -1, 0], [2, -1, -1, -1], [0, 1, 2, 3]])
ROWS: list[tuple[str, dict[str, Any], tuple[np.ndarray, ...]]] = [
    ("MultiLabelMarginLoss", {"reduction": "none"}, (X, LABELS)),
    ("MultiLabelMarginLoss", {}, (X[0], LABELS[0])),
    ("MultiLabelSoftMarginLoss", {"reduction": "sum"}, (X, TRUTHS)),
    ("TripletMarginWithDistanceLoss", {"margin": 2.0}, (X, TRUTHS, X[::-1].copy())),
]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "options", "given"), ROWS)
def test_parity_with_torch(name: str, options: dict[str, Any], given: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y, z = (getattr(t.nn, name)(**options)(*map(t.tensor, given)) for t in (ag, torch))
    np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-9)


def test_weights_of_classes_are_a_buffer() -> None:
    weighted = ag.nn.MultiLabelSoftMarginLoss(ag.tensor([1.0, 0, 0, 2]).double(), "none")
    plain = ag.nn.BCEWithLogitsLoss(reduction="none")(ag.tensor(X), ag.tensor(TRUTHS)).numpy()
    y = weighted(ag.tensor(X), ag.tensor(TRUTHS))
    np.testing.assert_allclose(y.numpy(), (plain[:, 0] + 2 * plain[:, 3]) / 4)
    assert [*weighted.state_dict()] == ["weight"]


@pytest.mark.parametrize("label", [-2, 3])
def test_labels_out_of_range_are_no_end_of_labels(label: int) -> None:
    with pytest.raises(IndexError, match=rf"expected positions in \[0, 3\), got {label}"):
        ag.multilabel_margin_loss(ag.ones(1, 3), ag.tensor([[0, label, -1]]))
