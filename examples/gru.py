"""Gated recurrent unit (Cho et al. 2014): it reads drawn digits row by row, from the top."""

from __future__ import annotations

from shared import accuracy, class_losses, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn


class Reader(nn.Module):
    """Reads 28 rows of 28 pixels; what it has understood after the last one decides."""

    def __init__(self) -> None:
        self.gru, self.out = nn.GRU(28, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """Return (N, 10); x (N, 784)."""
        _, state = self.gru(x.reshape(-1, 28, 28))
        logits: ag.Tensor = self.out(state[0])
        return logits


def main() -> None:
    """Train on 6,000 digits; the nearest of the same images is the reference."""
    ag.manual_seed(0)
    (x, labels), (test, truth) = digits("train", 6_000), digits("test", 2_000)
    model = Reader()
    schedule = ag.optim.schedules.Cosine(0.3, 300)
    optimizer = ag.optim.SGD(model.parameters(), lr=schedule, momentum=0.9)
    with counted() as training:
        minimise(optimizer, class_losses(model, x, labels, epochs=5))
    score = accuracy(model, test, truth)
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[:1]))
    nearest = ((x * x).sum(1) - 2 * test @ x.T).argmin(1)
    reference = "the nearest training image", (labels[nearest] == truth).mean()
    report("test accuracy", score, (0.92, 0.97), reference, training, answer)


if __name__ == "__main__":
    main()
