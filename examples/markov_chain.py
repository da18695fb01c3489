"""Markov chain (1906): the chances of the next state given this one, counted in a sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from shared import counted, report

import tallygrad.autograd as ag

STATES, STEPS = 5, 100_000


def walk(chances: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the states of a walk."""
    bounds, draws = chances.cumsum(1), rng.random(STEPS)
    states = np.zeros(STEPS, np.int64)
    for i in range(1, STEPS):
        states[i] = np.searchsorted(bounds[states[i - 1], :-1], draws[i])
    return states


def entropy_rate(chances: NDArray[np.float64]) -> float:
    """Return the bits of a step once the walk has forgotten its start (Shannon 1948)."""
    settled = np.linalg.matrix_power(chances, 100)[0]
    return float(settled @ -(chances * np.log2(chances)).sum(1))


def main() -> None:
    """Estimate the chances from a walk, and foresee the steps of another one with them."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(STATES), STATES)
    states, test = walk(true, rng), walk(true, rng)
    one_hot = ag.tensor(np.eye(STATES)[states])
    with counted() as training, ag.no_grad():
        counts = one_hot[:-1].T @ one_hot[1:]
        estimate = counts / counts.sum(1, keepdim=True)
    with counted() as answer:
        one_hot[-1] @ estimate
    bits = -np.log2(estimate.numpy()[test[:-1], test[1:]]).mean()
    truth = "the chain's entropy rate, which nobody beats", entropy_rate(true)
    report("bits a step of a new walk", bits, (1.70, 1.72), truth, training, answer)


if __name__ == "__main__":
    main()
