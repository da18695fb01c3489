"""Restricted Boltzmann machine (Smolensky 1986) trained by contrastive divergence (Hinton 2002) on
bars and stripes, small enough to count every state."""

from __future__ import annotations

from itertools import product

import numpy as np
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

SIDE = 3


def bars_and_stripes() -> ag.Tensor:
    """Return the 2^SIDE patterns of equal rows, and those of equal columns."""
    lines = np.array([*product([0, 1], repeat=SIDE)])
    rows = np.repeat(lines, SIDE, 1)
    columns = rows.reshape(-1, SIDE, SIDE).transpose(0, 2, 1).reshape(-1, SIDE**2)
    return ag.tensor(np.concatenate([rows, columns]), dtype="float32")


def main() -> None:
    """Learn their distribution with chains that go on (Tieleman 2008); its entropy is the least
    surprise."""
    ag.manual_seed(0)
    patterns = bars_and_stripes()
    model = nn.RestrictedBoltzmannMachine(SIDE**2, 16)
    schedule = ag.optim.schedules.Cosine(0.5, 2000)
    optimizer = ag.optim.SGD(model.parameters(), lr=schedule)
    chains = (ag.rand(400, SIDE**2) < 0.5).float()
    with counted() as training:
        for _ in range(2000):
            chains = model.gibbs(chains)
            energies = [model.free_energy(v).mean() for v in (patterns, chains)]
            minimise(optimizer, [energies[0] - energies[1]])
    with counted() as answer, ag.no_grad():
        model.hidden_given(patterns[:1])
    states = ag.tensor(np.array([*product([0, 1], repeat=SIDE**2)]), dtype="float32")
    with ag.no_grad():
        all_states = (-model.free_energy(states)).double().exp().sum().log().item()
        surprise = model.free_energy(patterns).mean().item() + all_states
    # Of 16 patterns, those of all zeros and all ones come twice.
    entropy = "the entropy of the patterns", 12 / 16 * np.log(16) + 4 / 16 * np.log(8)
    report("nats a pattern", surprise, (2.6, 2.85), entropy, training, answer)


if __name__ == "__main__":
    main()
