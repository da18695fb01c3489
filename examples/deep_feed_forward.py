"""Deep feed-forward net: three hidden layers of ReLU (Glorot, Bordes and Bengio 2011) with dropout
(Srivastava et al. 2014) on drawn digits."""

from __future__ import annotations

from itertools import pairwise

from shared import accuracy, class_losses, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn


def main() -> None:
    """Train on 10,000 digits; the nearest of the same images is the reference."""
    ag.manual_seed(0)
    (x, labels), (test, truth) = digits("train", 10_000), digits("test", 2_000)
    widths, layers = (784, 128, 128, 128), list[nn.Module]()
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    schedule = ag.optim.schedules.Cosine(0.1, 1000)
    optimizer = ag.optim.SGD(model.parameters(), lr=schedule, momentum=0.9)
    with counted() as training:
        minimise(optimizer, class_losses(model, x, labels, epochs=10))
    score = accuracy(model, test, truth)
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[:1]))
    nearest = ((x * x).sum(1) - 2 * test @ x.T).argmin(1)
    reference = "the nearest training image", (labels[nearest] == truth).mean()
    report("test accuracy", score, (0.945, 0.985), reference, training, answer)


if __name__ == "__main__":
    main()
