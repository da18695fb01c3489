"""Hopfield net (1982): it stores patterns as products of their bits, and settles from a noisy one
in the nearest."""

from __future__ import annotations

from math import erf, exp, pi, sqrt

import numpy as np
from shared import counted, report

import tallygrad.autograd as ag

UNITS, PATTERNS, FLIPPED = 1000, 100, 0.2


def settled(states: ag.Tensor, weights: ag.Tensor) -> ag.Tensor:
    """Let one unit after another take the sign of what it gets, until none changes; states are (P,
    N)."""
    before = 0 * states
    while not states.equal(before):
        before = states.clone()
        for i in range(UNITS):
            states[:, i] = 2.0 * (states @ weights[i] >= 0) - 1
    return states


def errors(load: float) -> float:
    """Return the share of wrong bits in theory (Amit, Gutfreund and Sompolinsky 1985): right bits
    and noise of the other patterns that agree with each other."""
    m, r = 1.0, 1.0
    for _ in range(100):
        slope = sqrt(2 / (pi * load * r)) * exp(-m * m / (2 * load * r))
        m, r = erf(m / sqrt(2 * load * r)), 1 / (1 - slope) ** 2
    return (1 - m) / 2


def main() -> None:
    """Recall patterns, a fifth of whose bits are wrong, with a tenth as many patterns as units."""
    rng = np.random.default_rng(0)
    patterns = ag.tensor(rng.choice([-1.0, 1.0], (PATTERNS, UNITS)), dtype="float32")
    flips = rng.choice([1.0, -1.0], patterns.shape, p=[1 - FLIPPED, FLIPPED])
    noisy = patterns * ag.tensor(flips, dtype="float32")
    with counted() as training, ag.no_grad():
        weights = patterns.T @ patterns / UNITS
        weights *= 1 - ag.tensor(np.eye(UNITS), dtype="float32")
    with counted() as answer:
        settled(noisy[:1].clone(), weights)
    wrong = (settled(noisy, weights) * patterns < 0).float().mean().item()
    theory = f"in theory, of {FLIPPED:.0%} before", errors(PATTERNS / UNITS)
    report("share of wrong bits", wrong, (0.0005, 0.0013), theory, training, answer)


if __name__ == "__main__":
    main()
