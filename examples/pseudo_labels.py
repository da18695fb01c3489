"""Semi-supervised learning with pseudo-labels (Lee 2013): a net labels the points of which it is
sure, and learns from them in the next round."""

from __future__ import annotations

import numpy as np
from rbf import near
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

LABELLED, ROUNDS, SURE = 6, 10, 0.9


def moons(count: int, rng: np.random.Generator) -> tuple[ag.Tensor, ag.Tensor]:
    """Return points (count, 2) on two interleaved half circles, and which one each is on."""
    which, angle = np.arange(count) % 2, np.pi * rng.random(count)
    points = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.where(which[:, None] == 0, points, [1.0, 0.5] - points)
    return ag.tensor(points + rng.normal(0, 0.08, points.shape), dtype="float32"), ag.tensor(which)


def trained(features: ag.Tensor, labels: np.ndarray, known: np.ndarray) -> nn.Module:
    """Return a layer trained on the points with a label; far from these it is not sure."""
    layer = nn.Linear(100, 2)
    for p in layer.parameters():
        nn.init.zeros_(p)
    x, y = features[np.flatnonzero(known)], ag.tensor(labels[known])
    optimizer = ag.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    minimise(optimizer, (ag.cross_entropy(layer(x), y) for _ in range(30)))
    return layer


def main() -> None:
    """Train with 6 labels, then with the pseudo-labels of the other 994 points too."""
    rng = np.random.default_rng(0)
    (x, truth), (test, answers) = moons(1000, rng), moons(2000, rng)
    known, scores = np.arange(1000) < LABELLED, []
    labels = np.where(known, truth.numpy(), -1)
    with counted() as training:
        features = near(x, x[:100], 0.15)
        for _ in range(ROUNDS):
            layer = trained(features, labels, known)
            with ag.no_grad():
                shares = layer(features).softmax(1).numpy()
            new = ~known & (shares.max(1) > SURE)
            labels[new], known = shares.argmax(1)[new], known | new
            with counted():
                guesses = layer(near(test, x[:100], 0.15)).argmax(1)
            scores.append((guesses == answers).float().mean().item())
    with counted() as answer, ag.no_grad():
        layer(near(test[:1], x[:100], 0.15))
    alone = "with the 6 labels alone", scores[0]
    report("test accuracy", scores[-1], (0.97, 1), alone, training, answer)


if __name__ == "__main__":
    main()
