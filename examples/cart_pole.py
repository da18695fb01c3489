"""Reinforcement learning with REINFORCE (Williams 1992): a net learns to push a cart left or right
so that its pole (Barto, Sutton and Anderson 1983) stays up."""

from __future__ import annotations

import numpy as np
from shared import counted, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

CARTS, LONGEST, ROUNDS = 30, 200, 60


def moved(state: np.ndarray, push: np.ndarray) -> np.ndarray:
    """Return places, speeds, angles and turns (N, 4) after pushes of some newtons for 20 ms."""
    (_, speed, angle, turn), cosine = state.T, np.cos(state[:, 2])
    force = (push + 0.05 * turn**2 * np.sin(angle)) / 1.1
    bend = (9.8 * np.sin(angle) - cosine * force) / (2 / 3 - 0.05 * cosine**2 / 1.1)
    force -= 0.05 * bend * cosine / 1.1
    return state + 0.02 * np.stack([speed, force, turn, bend], 1)


def episodes(policy: nn.Module, rng: np.random.Generator) -> list[np.ndarray]:
    """Return states (T, N, 4), which carts were pushed right, and which poles were still up."""
    state, up = rng.uniform(-0.05, 0.05, (CARTS, 4)), np.full(CARTS, True)
    steps: list[tuple[np.ndarray, ...]] = []
    while up.any() and len(steps) < LONGEST:
        with ag.no_grad():
            chance = policy(ag.tensor(state, dtype="float32")).sigmoid()[:, 0].numpy()
        right = rng.random(CARTS) < chance
        steps.append((state, right, up))
        state = moved(state, np.where(right, 10.0, -10.0))
        up = up & (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < np.radians(12))
    return [np.stack(column) for column in zip(*steps, strict=True)]


def main() -> None:
    """Make pushes likelier after which poles stay up for longer than the mean, the baseline."""
    ag.manual_seed(0)
    rng, lengths = np.random.default_rng(0), list[float]()
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = ag.optim.Adam(policy.parameters(), lr=0.02)
    with counted() as training:
        for _ in range(ROUNDS):
            states, right, up = episodes(policy, rng)
            lengths.append(up.sum(0).mean())
            ahead = up[::-1].cumsum(0)[::-1][up]
            gain = ag.tensor((ahead - ahead.mean()) / ahead.std(), dtype="float32")
            logits = policy(ag.tensor(states[up], dtype="float32"))
            surprise = ag.softplus(logits[:, 0] * ag.tensor(np.where(right[up], -1.0, 1.0)))
            minimise(optimizer, [(surprise * gain).mean()])
    with counted() as answer, ag.no_grad():
        policy(ag.zeros(1, 4))
    end, first = np.mean(lengths[-5:]).item(), ("untrained", lengths[0])
    report("steps up of 200", end, (150, 200), first, training, answer)


if __name__ == "__main__":
    main()
