"""Denoising auto-encoder (Vincent et al. 2008): it learns to take away noise that it has never
seen."""

from __future__ import annotations

import numpy as np
from shared import batches, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

NOISE = 0.4


def main() -> None:
    """Train on noisy digits to return clean ones; the best linear filter is the reference."""
    rng = np.random.default_rng(0)
    ag.manual_seed(0)
    (x, _), (test, _) = digits("train", 10_000), digits("test", 2_000)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())
    optimizer, loss = ag.optim.Adam(model.parameters(), lr=2e-3), nn.MSELoss()

    def noisy(images: np.ndarray) -> ag.Tensor:
        return ag.tensor(images + rng.normal(0, NOISE, images.shape), dtype="float32")

    with counted() as training:
        clean = (x[batch] for batch in batches(len(x), 100, epochs=8))
        minimise(optimizer, (loss(model(noisy(y)), ag.tensor(y)) for y in clean))
    with counted() as answer, ag.no_grad():
        model(noisy(test[:1]))
    dirty = noisy(test)
    with ag.no_grad():
        error = loss(model(dirty), ag.tensor(test)).item()
    # The filter of Wiener: covariance (covariance + noise)^-1.
    covariance, mean = np.cov(x.T), x.mean(0)
    kept = np.linalg.solve(covariance + NOISE**2 * np.eye(784), covariance)
    linear = np.square((dirty.numpy() - mean) @ kept + mean - test).mean()
    reference = f"the best linear filter; with the noise {NOISE**2:g}", float(linear)
    report("test squared error a pixel", error, (0.013, 0.017), reference, training, answer)


if __name__ == "__main__":
    main()
