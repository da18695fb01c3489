"""Long short-term memory on the adding problem (Hochreiter and Schmidhuber 1997): two of many
numbers are marked, and their sum is wanted at the end."""

from __future__ import annotations

import numpy as np
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

STEPS = 30


class Adder(nn.Module):
    """Reads numbers and marks (T, N, 2), and returns a number for each sequence."""

    def __init__(self) -> None:
        self.lstm, self.out = nn.LSTM(2, 32), nn.Linear(32, 1)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """Return (N,)."""
        _, (state, _) = self.lstm(x)
        y: ag.Tensor = self.out(state[0])
        return y.squeeze(1)


def drawn(rng: np.random.Generator, count: int) -> tuple[ag.Tensor, ag.Tensor]:
    """Return numbers in [0, 1) with marks (T, count, 2), a mark in each half, and the sums."""
    numbers, marks, each = rng.random((STEPS, count)), np.zeros((STEPS, count)), np.arange(count)
    for start in (0, STEPS // 2):
        marks[rng.integers(start, start + STEPS // 2, count), each] = 1
    x = ag.tensor(np.stack([numbers, marks], 2), dtype="float32")
    return x, ag.tensor((numbers * marks).sum(0), dtype="float32")


def main() -> None:
    """Train on new sequences; whoever remembers nothing is best off with 1, and errs by 1/6."""
    rng = np.random.default_rng(0)
    ag.manual_seed(0)
    model = Adder()
    optimizer = ag.optim.Adam(model.parameters(), lr=0.01)
    loss = nn.MSELoss()
    with counted() as training:
        sequences = (drawn(rng, 50) for _ in range(600))
        minimise(optimizer, (loss(model(x), y) for x, y in sequences))
    x, y = drawn(rng, 1000)
    with counted() as answer, ag.no_grad():
        model(x[:, :1])
    with ag.no_grad():
        error = loss(model(x), y).item()
    constant = "always answering 1", ((y - 1) ** 2).mean().item()
    report("mean squared error", error, (0, 0.01), constant, training, answer)


if __name__ == "__main__":
    main()
