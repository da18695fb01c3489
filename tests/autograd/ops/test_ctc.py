"""Connectionist temporal classification against a list of all paths."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

import tallygrad.autograd as ag


def spelled(path: tuple[int, ...], blank: int) -> list[int]:
    """Return what a path spells: repeated classes merged, blanks removed."""
    return [c for c, _ in groupby(path) if c != blank]


def by_listing(p: np.ndarray, target: list[int], blank: int) -> tuple[float, np.ndarray]:
    """Return the loss, and the gradient in log p (T, C), from all paths that spell the target."""
    total, share = 0.0, np.zeros_like(p)
    for path in product(range(p.shape[1]), repeat=len(p)):
        if spelled(path, blank) == target:
            chance = float(np.prod([row[c] for row, c in zip(p, path, strict=True)]))
            total += chance
            share[np.arange(len(p)), list(path)] += chance
    return -np.log(total), -share / total


@pytest.mark.parametrize("blank", [0, 2])
def test_sums_over_all_paths(blank: int) -> None:
    a, b = [c for c in range(3) if c != blank]
    targets = [[a, b], [a, a], [b], [], [b, a, b]]
    steps = [4, 5, 3, 2, 4]
    logits = np.random.default_rng(3).standard_normal((5, len(targets), 3))
    padded = np.array([[*row, *[a] * (3 - len(row))] for row in targets])
    x = ag.tensor(logits, requires_grad=True).log_softmax(2)
    loss = ag.ctc_loss(
        x, ag.tensor(padded), steps, [len(t) for t in targets], blank, reduction="none"
    )
    (dx,) = ag.grad(loss, x, ag.ones_like(loss))
    assert dx is not None
    for i, (target, count) in enumerate(zip(targets, steps, strict=True)):
        p = np.exp(x.numpy()[:count, i])
        expected, slope = by_listing(p, target, blank)
        assert loss.numpy()[i] == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(dx.numpy()[:count, i], slope, rtol=1e-9, atol=1e-12)
        assert not dx.numpy()[count:, i].any()


def test_targets_that_no_path_spells() -> None:
    x = ag.tensor(np.zeros((2, 2, 3)), requires_grad=True).log_softmax(2)
    given = (x, ag.tensor([[1, 1], [1, 2]]), [2, 2], [2, 2])
    assert ag.ctc_loss(*given, reduction="none").tolist()[0] == np.inf
    loss = ag.ctc_loss(*given, reduction="none", zero_infinity=True)
    (dx,) = ag.grad(loss, x, ag.ones_like(loss))
    assert dx is not None and loss.tolist()[0] == 0
    assert not dx.numpy()[:, 0].any() and dx.numpy()[:, 1].any()


def test_impossible_blanks() -> None:
    half, most = np.log([0.5, 0.75])
    x = ag.tensor(np.array([[-np.inf, half, half], [-np.inf, 2 * half, most]])).requires_grad_()
    loss = ag.ctc_loss(x, ag.tensor([1, 2]), [2], [2], reduction="none")
    assert loss.item() == pytest.approx(-np.log(0.5 * 0.75))
    (dx,) = ag.grad(loss, x)
    assert dx is not None
    np.testing.assert_allclose(dx.numpy(), [[0, -1, 0], [0, 0, -1]], rtol=1e-12)


def test_wrong_numbers() -> None:
    x, target = ag.zeros(4, 2, 3), ag.tensor([[1, 2], [2, 1]])
    for steps, sizes, said in (
        ([4, 5], [1, 1], r"^ctc_loss: expected input_lengths in \[0, 4\], got 5$"),
        ([4, 4], [-1, 1], r"^ctc_loss: expected target_lengths in \[0, 2\], got -1$"),
    ):
        with pytest.raises(ValueError, match=said):
            ag.ctc_loss(x, target, steps, sizes)
    with pytest.raises(IndexError, match=r"^ctc_loss: expected labels in \[0, 3\), got 3$"):
        ag.ctc_loss(x, ag.tensor([[1, 3], [2, 1]]), [4, 4], [2, 2])
    with pytest.raises(ValueError, match=r"^ctc_loss: expected blank in \[0, 3\), got 3$"):
        ag.ctc_loss(x, target, [4, 4], [2, 2], blank=3)
