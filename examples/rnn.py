"""Elman's recurrent net (1990) on temporal XOR: every third bit is the XOR of the two before, so
that a third of the bits can be foreseen."""

from __future__ import annotations

import numpy as np
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

SEQUENCES, STEPS = 32, 30


class Elman(nn.Module):
    """Reads bits (T, N, 1) and returns the logits of the next ones."""

    def __init__(self) -> None:
        self.rnn, self.out = nn.RNN(1, 16), nn.Linear(16, 1)

    def forward(self, bits: ag.Tensor) -> ag.Tensor:
        """Return (T, N, 1)."""
        states, _ = self.rnn(2 * bits - 1)
        logits: ag.Tensor = self.out(states)
        return logits


def drawn(rng: np.random.Generator, count: int) -> ag.Tensor:
    """Return bits (T, count, 1), in threes of which the last is the XOR of the first two."""
    pairs = rng.integers(0, 2, (STEPS // 3, 2, count))
    bits = np.concatenate([pairs, pairs[:, :1] ^ pairs[:, 1:]], 1).reshape(STEPS, count, 1)
    return ag.tensor(bits, dtype="float32")


def main() -> None:
    """Learn to foresee the next bit; the two bits of three that are chance cost one bit each."""
    rng = np.random.default_rng(0)
    ag.manual_seed(0)
    model = Elman()
    optimizer = ag.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    loss = nn.BCEWithLogitsLoss()
    with counted() as training:
        sequences = (drawn(rng, SEQUENCES) for _ in range(800))
        minimise(optimizer, (loss(model(bits[:-1]), bits[1:]) for bits in sequences))
    test = drawn(rng, 1000)
    with counted() as answer, ag.no_grad():
        model(test[:1, :1])
    with ag.no_grad():
        bits_a_step = loss(model(test[:-1]), test[1:]).item() / np.log(2)
    chance = "19 of 29 bits are chance", 19 / 29
    report("bits a step", bits_a_step, (0.64, 0.68), chance, training, answer)


if __name__ == "__main__":
    main()
