"""Feed-forward net with one hidden layer (Rumelhart, Hinton and Williams 1986): drawn digits."""

from __future__ import annotations

import numpy as np
from shared import accuracy, class_losses, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn


def main() -> None:
    """Train 64 sigmoid units on 10,000 digits; least squares on the pixels is the reference."""
    ag.manual_seed(0)
    (x, labels), (test, truth) = digits("train", 10_000), digits("test", 2_000)
    model = nn.Sequential(nn.Linear(784, 64), nn.Sigmoid(), nn.Linear(64, 10))
    optimizer = ag.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with counted() as training:
        minimise(optimizer, class_losses(model, x, labels, epochs=5))
    score = accuracy(model, test, truth)
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[:1]))
    centred, mean = x - x.mean(0), x.mean(0)
    planes = np.linalg.solve(centred.T @ centred + np.eye(784), centred.T @ np.eye(10)[labels])
    linear = (((test - mean) @ planes).argmax(1) == truth).mean()
    reference = "a linear classifier, by least squares", linear
    report("test accuracy", score, (0.91, 0.96), reference, training, answer)


if __name__ == "__main__":
    main()
