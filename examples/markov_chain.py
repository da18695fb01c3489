"""Markov chain (1906): the chances of the next state given this one, counted in a sequence; its
entropy rate is what nobody can predict."""

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


def entropy_rate(chances: ag.Tensor) -> ag.Tensor:
    """Return the bits of a step once the walk has forgotten its start."""
    settled = chances
    for _ in range(6):
        settled = settled @ settled
    surprise = -(chances * chances.log()).sum(1) / np.log(2)
    rate: ag.Tensor = settled[0] @ surprise
    return rate


def main() -> None:
    """Estimate the chances from a walk, and compare entropy rates."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(STATES), STATES)
    states = walk(true, rng)
    one_hot = ag.tensor(np.eye(STATES)[states])
    with counted() as training, ag.no_grad():
        counts = one_hot[:-1].T @ one_hot[1:]
        estimate = counts / counts.sum(1, keepdim=True)
    with counted() as answer:
        one_hot[-1] @ estimate
    bits = entropy_rate(estimate).item()
    truth = "that of the chain itself", entropy_rate(ag.tensor(true)).item()
    report("entropy rate, bits a step", bits, (1.70, 1.72), truth, training, answer)


if __name__ == "__main__":
    main()
