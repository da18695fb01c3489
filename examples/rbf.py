"""Radial basis function net (Broomhead and Lowe 1988): a linear layer on distances to centres tells
apart two spirals that no line can."""

from __future__ import annotations

import numpy as np
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn


def spirals(count: int, rng: np.random.Generator) -> tuple[ag.Tensor, ag.Tensor]:
    """Return points (count, 2) on two interleaved spirals, and which one each is on."""
    which, turn = rng.integers(0, 2, count), 4 * np.pi * np.sqrt(rng.random(count))
    angle = turn + np.pi * which
    points = (turn / 4 / np.pi)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    points += rng.normal(0, 0.01, points.shape)
    return ag.tensor(points, dtype="float32"), ag.tensor(which)


def near(x: ag.Tensor, centres: ag.Tensor, width: float = 0.1) -> ag.Tensor:
    """Return exp(-(distance / width)^2 / 2) of each point to each centre."""
    squares = (x * x).sum(1, keepdim=True) + (centres * centres).sum(1) - 2 * (x @ centres.T)
    return (squares / -(2 * width**2)).exp()


def main() -> None:
    """Train the linear layer on 100 points of the training set as centres."""
    rng = np.random.default_rng(0)
    ag.manual_seed(0)
    (x, which), (test, truth) = spirals(1000, rng), spirals(1000, rng)
    centres, layer = x[:100], nn.Linear(100, 2)
    optimizer = ag.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    with counted() as training:
        features = near(x, centres)
        minimise(optimizer, (ag.cross_entropy(layer(features), which) for _ in range(200)))
    with counted() as answer, ag.no_grad():
        layer(near(test[:1], centres))
    accuracy = (layer(near(test, centres)).argmax(1) == truth).float().mean().item()
    line, *_ = np.linalg.lstsq(np.c_[x.numpy(), np.ones(1000)], 2 * which.numpy() - 1, rcond=None)
    straight = (np.c_[test.numpy(), np.ones(1000)] @ line > 0) == truth.numpy()
    reference = "the best line, by least squares", straight.mean()
    report("test accuracy", accuracy, (0.97, 1), reference, training, answer)


if __name__ == "__main__":
    main()
