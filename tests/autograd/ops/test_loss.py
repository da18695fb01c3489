"""Losses at their edges: labels that are no class, nothing to average, extreme logits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag

LABELLED = pytest.mark.parametrize("loss", [ag.cross_entropy, ag.nll_loss])
Loss = Callable[..., ag.Tensor]


def logits(*shape: int) -> ag.Tensor:
    numbers = np.random.default_rng(0).standard_normal(shape)
    return ag.tensor(numbers.astype(np.float32), requires_grad=True)


@LABELLED
@pytest.mark.parametrize("label", [5, -1, 2**40])
def test_a_label_out_of_range_is_named(loss: Loss, label: int) -> None:
    with pytest.raises(IndexError, match=rf"expected labels in \[0, 5\), got {label}"):
        loss(logits(3, 5), ag.tensor([0, label, 2]))


@LABELLED
def test_an_ignored_label_may_be_a_class(loss: Loss) -> None:
    x = logits(3, 5)
    y = loss(x, ag.tensor([1, 4, 2]), ignore_index=4, reduction="none")
    assert y.numpy()[1] == 0 and y.numpy()[0] != 0
    y.sum().backward()
    assert x.grad is not None and not x.grad.numpy()[1].any()


@LABELLED
def test_narrow_labels_will_do(loss: Loss) -> None:
    x, labels = logits(3, 5), np.array([0, 4, 2])
    expected = loss(x, ag.tensor(labels)).item()
    for dtype in ("int32", "uint8"):
        assert loss(x, ag.tensor(labels.astype(dtype))).item() == expected


@LABELLED
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_average(loss: Loss, reduction: str) -> None:
    x = logits(0, 5)
    y = loss(x, ag.tensor(np.zeros(0, np.int64)), reduction=reduction)
    assert y.shape == ((0,) if reduction == "none" else ())
    if reduction != "none":
        np.testing.assert_equal(y.item(), np.nan if reduction == "mean" else 0.0)
    y.backward(ag.ones_like(y))
    assert x.grad is not None and x.grad.shape == (0, 5)


@LABELLED
def test_all_labels_ignored(loss: Loss) -> None:
    x = logits(2, 5)
    assert np.isnan(loss(x, ag.tensor([-100, -100])).item())
    assert loss(x, ag.tensor([-100, -100]), reduction="sum").item() == 0


def test_extreme_logits() -> None:
    x = ag.tensor(np.array([[1e30, 0, -1e30], [-1e30, 0, 1e30]], np.float32), requires_grad=True)
    y = ag.cross_entropy(x, ag.tensor([0, 0]), reduction="none")
    np.testing.assert_array_equal(y.numpy(), np.array([0, 2e30], np.float32))
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0, 0], [-1, 0, 1]])
    z = ag.tensor(np.array([1e30, -1e30], np.float32), requires_grad=True)
    y = ag.binary_cross_entropy_with_logits(z, ag.tensor([0.0, 1.0]), reduction="sum")
    y.backward()
    assert z.grad is not None
    np.testing.assert_array_equal(z.grad.numpy(), [1, -1])


@pytest.mark.parity
def test_certain_probabilities_as_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, target = np.array([0.0, 1.0, 0.0, 1.0, 0.5]), np.array([0.0, 1.0, 1.0, 0.0, 0.25])
    ours = ag.tensor(x, requires_grad=True), ag.tensor(target)
    theirs = torch.tensor(x, requires_grad=True), torch.tensor(target)
    y = ag.binary_cross_entropy(*ours, reduction="none")
    z = torch.nn.functional.binary_cross_entropy(*theirs, reduction="none")
    np.testing.assert_allclose(y.numpy(), z.detach().numpy())
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(ours[0].grad.numpy(), theirs[0].grad.numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [-0.25, 1.25, np.nan])
def test_probabilities_are_needed(wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"expected inputs in \[0, 1\], got {wrong}"):
        ag.binary_cross_entropy(ag.tensor([0.5, wrong]), ag.tensor([0.0, 1.0]))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "mse_loss", "binary_cross_entropy"])
def test_unknown_reduction(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name}: expected reduction in \('mean', 'sum', 'none'\), got 'avg'"
    ):
        getattr(ag, name)(logits(2, 5), ag.tensor([0, 1]), reduction="avg")


def test_other_wrong_arguments() -> None:
    x = logits(2, 5)
    with pytest.raises(ValueError, match=r"expected label_smoothing in \[0, 1\], got 1\.5"):
        ag.cross_entropy(x, ag.tensor([0, 1]), label_smoothing=1.5)
    with pytest.raises(
        ValueError, match=r"^cross_entropy: expected weight \(5,\) for the classes, got \(4,\)$"
    ):
        ag.cross_entropy(x, ag.tensor([0, 1]), ag.ones(4))
    with pytest.raises(
        TypeError,
        match=r"^nll_loss: expected floating-point .* integer labels, got float32 and float32$",
    ):
        ag.nll_loss(x, ag.tensor([0.0, 1.0]))
    with pytest.raises(RuntimeError, match="no derivative with respect to w"):
        ag.cross_entropy(x, ag.tensor([0, 1]), ag.ones(5, requires_grad=True)).backward()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: ag.huber_loss(x, x, delta=0.0), "huber_loss: expected delta > 0, got 0.0"),
        (
            lambda x: ag.smooth_l1_loss(x, x, "sum", -1),
            "smooth_l1_loss: expected beta >= 0, got -1",
        ),
        (
            lambda x: ag.gaussian_nll_loss(x, x, x * 0 - 2),
            "gaussian_nll_loss: expected var of at least 0, got -2.0",
        ),
        (
            lambda x: ag.gaussian_nll_loss(x, x, ag.ones(3)),
            "gaussian_nll_loss: expected shapes that broadcast, got (2, 5) and (3,)",
        ),
        (
            lambda x: ag.gaussian_nll_loss(x, x, ag.ones(4, 2, 5)),
            "gaussian_nll_loss: expected var to fit input (2, 5), got (4, 2, 5)",
        ),
        (
            lambda x: ag.gaussian_nll_loss(x, x, x, eps=0),
            "gaussian_nll_loss: expected eps > 0, got 0",
        ),
        (lambda x: ag.norm(x, "nuc"), "norm: expected p to be a number or 'fro', got 'nuc'"),
        (
            lambda x: ag.multi_margin_loss(x, ag.tensor([0, 1]), p=3),
            "multi_margin_loss: expected p of 1 or 2, got 3",
        ),
        (
            lambda x: ag.kl_div(x, x, "avg"),
            "kl_div: expected reduction in ('mean', 'sum', 'none'), got 'avg'",
        ),
    ],
)
def test_wrong_options(call: Callable[[ag.Tensor], ag.Tensor], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call(logits(2, 5).detach())
    assert str(caught.value) == said


def test_a_small_variance_keeps_a_gradient() -> None:
    """As in torch, where a variance below eps counts as eps."""
    v = ag.tensor([1e-9, 2.0], requires_grad=True)
    loss = ag.gaussian_nll_loss(ag.tensor([1.0, 1.0]), ag.zeros(2), v, eps=0.25, reduction="none")
    np.testing.assert_allclose(loss.numpy(), [(np.log(0.25) + 4) / 2, (np.log(2) + 0.5) / 2], 1e-6)
    loss.sum().backward()
    assert v.grad is not None
    np.testing.assert_allclose(v.grad.numpy(), [(1 - 4) / 0.25 / 2, (1 - 0.5) / 2 / 2], 1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, np.inf])
def test_a_norm_of_zeros_has_no_gradient(p: float) -> None:
    x = ag.zeros(2, 3, requires_grad=True)
    y = ag.norm(x, p, 1)
    (dx,) = ag.grad(y, x, ag.ones(2))
    assert dx is not None and not y.numpy().any() and not dx.numpy().any()


def test_a_certain_target_costs_nothing() -> None:
    target = ag.tensor([[1.0, 0.0]], requires_grad=True)
    loss = ag.kl_div(ag.tensor([[0.0, -1e30]]), target, "batchmean")
    (dt,) = ag.grad(loss, target)
    assert dt is not None and loss.item() == 0 and np.isfinite(dt.numpy()).all()


LOGITS, LABELS = ag.zeros(4, 3), ag.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(("call", "said"), [
    (lambda: ag.cross_entropy((LOGITS, LOGITS), LABELS), "input to be a tensor, got tuple"),
    (lambda: ag.cross_entropy(LOGITS, [0, 1, 2, 0]), "expected target to be a tensor, got list"),
    (lambda: ag.cross_entropy(LOGITS.argmax(1), LABELS), "expected floating-point input (N, C"),
    (lambda: ag.cross_entropy(LOGITS, LABELS.float()),
     "expected integer labels or class probabilities (4, 3) as target, got float32 (4,)"),
    (lambda: ag.nll_loss(LOGITS.argmax(1), LABELS), "nll_loss: expected floating-point input (N,"),
    (lambda: ag.mse_loss(LOGITS, None), "mse_loss: expected target to be a tensor, got NoneType"),
    (lambda: ag.binary_cross_entropy(LOGITS, 0.5), "expected target to be a tensor, got float"),
    (lambda: ag.ctc_loss(LOGITS, [1], [4], [1]), "expected targets to be a tensor, got list"),
    (lambda: ag.triplet_margin_loss(LOGITS, LOGITS, 1), "negative to be a tensor, got int"),
    (lambda: ag.cosine_embedding_loss(LOGITS, 1, LABELS), "input2 to be a tensor, got int"),
    (lambda: ag.hinge_embedding_loss([0.0], LABELS), "input to be a tensor, got list"),
    (lambda: ag.multi_margin_loss(LOGITS, [1] * 4), "expected target to be a tensor, got list"),
])  # fmt: skip
def test_what_is_no_input_or_target(call: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        call()
