"""Losses and other measures as layers: torch's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

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
    weighted = nn.MultiLabelSoftMarginLoss(ag.tensor([1.0, 0, 0, 2]).double(), "none")
    plain = nn.BCEWithLogitsLoss(reduction="none")(ag.tensor(X), ag.tensor(TRUTHS)).numpy()
    y = weighted(ag.tensor(X), ag.tensor(TRUTHS))
    np.testing.assert_allclose(y.numpy(), (plain[:, 0] + 2 * plain[:, 3]) / 4)
    assert [*weighted.state_dict()] == ["weight"]


@pytest.mark.parametrize("label", [-2, 3])
def test_labels_out_of_range_are_no_end_of_labels(label: int) -> None:
    with pytest.raises(IndexError, match=rf"expected positions in \[0, 3\), got {label}"):
        ag.multilabel_margin_loss(ag.ones(1, 3), ag.tensor([[0, label, -1]]))


LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("CrossEntropyLoss", {}),
    ("CrossEntropyLoss", {"weight": 3, "ignore_index": 1, "label_smoothing": 0.1}),
    ("CrossEntropyLoss", {"reduction": "none"}),
    ("NLLLoss", {}),
    ("NLLLoss", {"weight": 3, "ignore_index": 1, "reduction": "sum"}),
    ("MSELoss", {"reduction": "sum"}),
    ("BCELoss", {}),
    ("BCELoss", {"weight": 3}),
    ("BCEWithLogitsLoss", {"weight": 3, "pos_weight": 3, "reduction": "none"}),
    ("L1Loss", {}),
    ("HuberLoss", {"reduction": "sum", "delta": 0.2}),
    ("SmoothL1Loss", {"beta": 0.2}),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}),
    ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 0.1}),
    ("SoftMarginLoss", {"reduction": "none"}),
    ("HingeEmbeddingLoss", {"margin": 0.3}),
    ("MultiMarginLoss", {"p": 2, "margin": 0.3, "weight": 3}),
    ("GaussianNLLLoss", {"full": True, "reduction": "none"}),
    ("MarginRankingLoss", {"margin": 0.3}),
    ("CosineEmbeddingLoss", {"margin": 0.3}),
    ("TripletMarginLoss", {"margin": 0.3, "p": 1.0, "swap": True}),
]
LABELLED = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
THIRD = ("GaussianNLLLoss", "MarginRankingLoss", "CosineEmbeddingLoss", "TripletMarginLoss")


@pytest.mark.parity
@pytest.mark.parametrize(("name", "options"), LOSSES, ids=lambda v: str(v)[:50])
def test_losses(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(4)
    x, target = rng.random((5, 3)), rng.random((5, 3))
    given = [x, target.argmax(1) if name in LABELLED else target]
    if name in THIRD:
        given.append(np.array([1, -1, 1, 1, -1]) if name[0] in "C" else rng.random((5, 3)))
    arrays = {k: rng.random(v) for k, v in options.items() if k in ("weight", "pos_weight")}
    ours = getattr(nn, name)(**options | {k: ag.tensor(v) for k, v in arrays.items()})
    theirs = getattr(torch.nn, name)(**options | {k: torch.tensor(v) for k, v in arrays.items()})
    y, t = ours(*map(ag.tensor, given)), theirs(*map(torch.tensor, given))
    np.testing.assert_allclose(y.numpy(), t.numpy(), rtol=1e-12)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    with pytest.raises(
        ValueError, match=rf"^{name}: expected reduction in \('mean', 'sum', 'none'.*\), got 'meen'"
    ):
        getattr(nn, name)(reduction="meen")


@pytest.mark.parity
def test_other_measures() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(4)
    x, z = rng.random((5, 3)), rng.random((5, 3))
    rows = np.array([[1, 2], [2, 2]]), np.array([4, 4]), np.array([2, 1])
    scores = np.log(rng.dirichlet(np.ones(3), (4, 2)))
    for name, options, given in (
        ("CosineSimilarity", {"dim": 0}, (x, z)),
        ("PairwiseDistance", {"p": 1.0, "keepdim": True}, (x, z)),
        ("CTCLoss", {"blank": 0, "reduction": "sum"}, (scores, *rows)),
    ):
        y = getattr(nn, name)(**options)(*map(ag.tensor, given))
        t = getattr(torch.nn, name)(**options)(*map(torch.tensor, given))
        np.testing.assert_allclose(y.numpy(), t.numpy(), rtol=1e-12, err_msg=name)
