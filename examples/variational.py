"""Variational auto-encoder (Kingma and Welling 2014): a code drawn from a normal distribution, and
a bound of how likely drawn digits are."""

from __future__ import annotations

import numpy as np
from shared import batches, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

CODE = 16


class Variational(nn.Module):
    """Encodes pixels as means and log variances of a code, and decodes a draw of it."""

    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, 128), nn.ReLU(), nn.Linear(128, 784))

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """Return the negative bound in nats an image: what the pixels cost given the code, and the
        divergence of the code from the normal distribution."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        code = mean + (log_variance / 2).exp() * ag.randn(*mean.shape)
        pixels = ag.binary_cross_entropy_with_logits(self.decoder(code), x, reduction="sum")
        divergence = (mean * mean + log_variance.exp() - log_variance - 1).sum() / 2
        bound: ag.Tensor = (pixels + divergence) / len(x)
        return bound


def main() -> None:
    """Train on black and white digits; the reference knows how often each pixel is white."""
    ag.manual_seed(0)
    (x, _), (test, _) = digits("train", 10_000), digits("test", 2_000)
    x, test = (images.round() for images in (x, test))
    model = Variational()
    optimizer = ag.optim.Adam(model.parameters(), lr=2e-3)
    with counted() as training:
        minimise(optimizer, (model(ag.tensor(x[batch])) for batch in batches(len(x), 100, 10)))
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[:1]))
    with ag.no_grad():
        bound = model(ag.tensor(test)).item()
    white = (x.sum(0) + 1) / (len(x) + 2)
    alone = -(test * np.log(white) + (1 - test) * np.log(1 - white)).sum(1).mean()
    reference = "pixels that know nothing of each other", float(alone)
    report("nats an image, at most", bound, (118, 130), reference, training, answer)


if __name__ == "__main__":
    main()
