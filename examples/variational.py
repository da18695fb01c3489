"""Variational auto-encoder (Kingma and Welling 2014): a code drawn from a normal distribution, and
a bound of how likely drawn digits are."""

from __future__ import annotations

import numpy as np
from shared import batches, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import models, nn

CODE = 16


def bound(model: nn.Module, x: ag.Tensor) -> ag.Tensor:
    """Return the negative bound in nats an image: what the pixels cost given the code, and the
    divergence of the code from the normal distribution, which the model adds."""
    with ag.added_losses() as divergence:
        pixels = ag.binary_cross_entropy_with_logits(model(x), x, reduction="sum") / len(x)
    return sum(divergence, pixels)


def main() -> None:
    """Train on black and white digits; the reference knows how often each pixel is white."""
    ag.manual_seed(0)
    (x, _), (test, _) = digits("train", 10_000), digits("test", 2_000)
    x, test = (images.round() for images in (x, test))
    model = models.create("vae", hidden=128, code=CODE, beta=784 / 2)  # in nats
    optimizer = ag.optim.Adam(model.parameters(), lr=2e-3)
    with counted() as training:
        minimise(optimizer, (bound(model, ag.tensor(x[b])) for b in batches(len(x), 100, 10)))
    with counted() as answer, ag.no_grad():
        bound(model, ag.tensor(test[:1]))
    with ag.no_grad():
        nats = bound(model, ag.tensor(test)).item()
    white = (x.sum(0) + 1) / (len(x) + 2)
    alone = -(test * np.log(white) + (1 - test) * np.log(1 - white)).sum(1).mean()
    reference = "pixels that know nothing of each other", float(alone)
    report("nats an image, at most", nats, (118, 130), reference, training, answer)


if __name__ == "__main__":
    main()
