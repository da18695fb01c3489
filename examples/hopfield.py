"""Hopfield net (1982): patterns become fixed points of a net whose weights are their Hebbian
products, until too many disturb one another."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np
from shared import counted, report

import tallygrad.autograd as ag

UNITS, PATTERNS = 1000, 138


def main() -> None:
    """Store as many patterns as the capacity of 0.138 N allows, and see how many bits flip."""
    rng = np.random.default_rng(0)
    patterns = ag.tensor(rng.choice([-1.0, 1.0], (PATTERNS, UNITS)), dtype="float32")
    with counted() as training, ag.no_grad():
        weights = patterns.T @ patterns / UNITS
        weights *= 1 - ag.tensor(np.eye(UNITS), dtype="float32")
    with counted() as answer:
        patterns[0] @ weights
    unstable = ((patterns @ weights) * patterns < 0).float().mean().item()
    # The other patterns add noise of variance P / N to a signal of 1 (Hertz, Krogh, Palmer 1991).
    theory = "what P / N = 0.138 gives in theory", erfc(sqrt(UNITS / (PATTERNS - 1) / 2)) / 2
    report("share of unstable bits", unstable, (0.0028, 0.004), theory, training, answer)


if __name__ == "__main__":
    main()
