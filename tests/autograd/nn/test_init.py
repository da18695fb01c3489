"""Initialisers."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn

DRAWN: list[tuple[Callable[[ag.Tensor], ag.Tensor], float, float]] = [
    (lambda t: nn.init.uniform_(t, -2, 4), 1.0, 6 / sqrt(12)),
    (lambda t: nn.init.normal_(t, 3.0, 0.5), 3.0, 0.5),
    (lambda t: nn.init.trunc_normal_(t, 1.0, 0.5, 0.0, 2.0), 1.0, 0.5 * 0.8796),
    (lambda t: nn.init.xavier_uniform_(t, 2.0), 0.0, 2 * sqrt(2 / (180 + 360))),
    (lambda t: nn.init.xavier_normal_(t), 0.0, sqrt(2 / (180 + 360))),
    (lambda t: nn.init.kaiming_uniform_(t, nonlinearity="relu"), 0.0, sqrt(2 / 180)),
    (lambda t: nn.init.kaiming_normal_(t, mode="fan_out"), 0.0, sqrt(2 / (1 + 1e-4) / 360)),
    (lambda t: nn.init.kaiming_uniform_(t, a=sqrt(5)), 0.0, sqrt(1 / 3 / 180)),
]


@pytest.mark.parametrize(("draw", "mean", "deviation"), DRAWN)
def test_initial_statistics(
    draw: Callable[[ag.Tensor], ag.Tensor], mean: float, deviation: float
) -> None:
    ag.manual_seed(5)
    t = ag.zeros(40, 20, 3, 3)
    assert draw(t) is t
    numbers = t.numpy().astype(np.float64)
    assert numbers.mean() == pytest.approx(mean, abs=5 * deviation / sqrt(t.size))
    assert numbers.std() == pytest.approx(deviation, rel=0.05)


def test_truncated_numbers_are_within_bounds() -> None:
    numbers = nn.init.trunc_normal_(ag.zeros(5000), 0.5, 1.0, 0.0, 1.0).numpy()
    assert 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() <= 1
    with pytest.raises(ValueError, match=r"expected bounds near 0.0 \+- 2.0, got 3 and 4"):
        nn.init.trunc_normal_(ag.zeros(2), a=3, b=4)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 2, 2, 2)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    t = nn.init.orthogonal_(ag.zeros(*shape, dtype=np.float64), 2.0).numpy().reshape(shape[0], -1)
    square = t @ t.T if t.shape[0] < t.shape[1] else t.T @ t
    np.testing.assert_allclose(square, 4 * np.eye(len(square)), atol=1e-12)


def test_init_says_what_it_cannot_do() -> None:
    assert (nn.init.ones_(ag.zeros(2)).numpy() == 1).all()
    assert (nn.init.zeros_(ag.ones(2)).numpy() == 0).all()
    with pytest.raises(
        ValueError,
        match=r"^fan_in, fan_out: expected a weight of at least 2 axes, got shape \(3,\)$",
    ):
        nn.init.xavier_normal_(ag.zeros(3))
    with pytest.raises(ValueError, match="unknown nonlinearity 'reul'; did you mean 'relu'"):
        nn.init.kaiming_normal_(ag.zeros(3, 3), nonlinearity="reul")
    mode: Any = "fan"
    with pytest.raises(ValueError, match="unknown mode 'fan'"):
        nn.init.kaiming_normal_(ag.zeros(3, 3), mode=mode)
    with context.using(backend="meta"):
        t = nn.init.orthogonal_(nn.init.normal_(ag.zeros(3, 3)))
    assert t.array._value is None


def test_dirac_and_whitening_filters() -> None:
    for shape in ((4, 2, 3, 5), (2, 4, 3)):
        t = nn.init.dirac_(nn.init.ones_(ag.zeros(*shape))).numpy()
        middle = t[(slice(None), slice(None), *(n // 2 for n in shape[2:]))]
        assert t.sum() == 2 and (middle == np.eye(*shape[:2])).all()
    images = ag.tensor(np.random.default_rng(0).normal(size=(50, 2, 6, 5)) * [[[1.0]], [[3.0]]])
    few = nn.init.whiten_(ag.zeros(4, 2, 1, 1, dtype=np.float64), images, eps=0.0).numpy()[
        ..., 0, 0
    ]
    np.testing.assert_allclose(np.abs(few) @ [1, 3], [1, 1, 1, 1], rtol=0.1)
    assert (few[2:] == -few[:2]).all() and abs(few[0, 1]) > abs(few[0, 0])
    for message, shape, data in (
        ("^dirac_: .* at least 3 axes, got shape .3, 3.", (3, 3), None),
        (
            "^whiten_: expected images with patches .2, 7, 1., got .50, 2, 6, 5.",
            (1, 2, 7, 1),
            images,
        ),
        ("^whiten_: expected at most 4 filters, got 5", (5, 2, 1, 1), images),
    ):
        with pytest.raises(ValueError, match=message):
            t = ag.zeros(*shape)
            nn.init.dirac_(t) if data is None else nn.init.whiten_(t, data)


def test_the_identity() -> None:
    assert nn.init.eye_(ag.ones(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"^eye_: expected a matrix, got shape \(3,\)"):
        nn.init.eye_(ag.ones(3))
