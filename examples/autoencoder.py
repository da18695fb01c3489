"""Auto-encoder (Hinton and Salakhutdinov 2006): drawn digits, made again from codes of 16
numbers."""

from __future__ import annotations

import numpy as np
from shared import batches, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import models, nn

CODE = 16


def main() -> None:
    """Train on 10,000 digits; as many principal components are the best linear code."""
    ag.manual_seed(0)
    (x, _), (test, _) = digits("train", 10_000), digits("test", 2_000)
    model = models.create("autoencoder", input_shape=(1, 28, 28), hidden=128, code=CODE)
    optimizer, loss = ag.optim.Adam(model.parameters(), lr=2e-3), nn.MSELoss()
    with counted() as training:
        images = (ag.tensor(x[batch]) for batch in batches(len(x), 100, epochs=8))
        minimise(optimizer, (loss(model(image), image) for image in images))
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[:1]))
    with ag.no_grad():
        error = loss(model(ag.tensor(test)), ag.tensor(test)).item()
    mean = x.mean(0)
    _, axes = np.linalg.eigh(np.cov(x.T))
    plane = axes[:, -CODE:]
    linear = np.square((test - mean) - (test - mean) @ plane @ plane.T).mean()
    reference = "16 principal components", float(linear)
    report("test squared error a pixel", error, (0.022, 0.029), reference, training, answer)


if __name__ == "__main__":
    main()
