"""Boltzmann machine (Ackley, Hinton and Sejnowski 1985): units that all see each other learn how
often patterns come, from the difference of waking and dreaming."""

from __future__ import annotations

from itertools import product

import numpy as np
from shared import counted, report

import tallygrad.autograd as ag

UNITS, CHAINS, STEPS = 8, 200, 600
STATES = np.array([*product([0.0, 1.0], repeat=UNITS)])


def sweep(units: ag.Tensor, weights: ag.Tensor) -> ag.Tensor:
    """Return the units of all chains (CHAINS, UNITS), each drawn anew given the others; the biases
    are the diagonal of the weights."""
    for i in range(UNITS):
        others = units * ag.tensor(np.arange(UNITS) != i, dtype="float64")
        fires = ag.bernoulli(ag.sigmoid(others @ weights[i] + weights[i, i]))
        units = ag.cat([others[:, :i], fires.unsqueeze(1), others[:, i + 1 :]], 1)
    return units


def distribution(weights: np.ndarray) -> np.ndarray:
    """Return the net's probability of each state, exp(-energy) over its sum."""
    q = np.exp(np.einsum("si,ij,sj->s", STATES, np.triu(weights), STATES))
    shares: np.ndarray = q / q.sum()
    return shares


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return how far q is from p, in nats (Kullback and Leibler 1951)."""
    return float((p * np.log(p / q)).sum())


def main() -> None:
    """Learn a net's distribution from 5,000 draws of it; independent units are the reference."""
    rng = np.random.default_rng(0)
    ag.manual_seed(0)
    p = distribution(rng.normal(0, 1, (UNITS, UNITS)))
    data = ag.tensor(STATES[rng.choice(len(STATES), 5000, p=p)])
    weights, chains = ag.zeros(UNITS, UNITS, dtype="float64"), data[:CHAINS]
    with counted() as training, ag.no_grad():
        awake = data.T @ data / len(data)
        for step in range(STEPS):
            chains = sweep(chains, weights)
            weights += (awake - chains.T @ chains / CHAINS) * (1 - step / STEPS)
    with counted() as answer, ag.no_grad():
        sweep(data[:1], weights)
    alone = np.prod(np.where(STATES == 1, data.numpy().mean(0), 1 - data.numpy().mean(0)), 1)
    reference = "units that know nothing of each other", divergence(p, alone)
    error = divergence(p, distribution(weights.numpy()))
    report("divergence in nats", error, (0, 0.01), reference, training, answer)


if __name__ == "__main__":
    main()
