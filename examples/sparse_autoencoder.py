"""Sparse auto-encoder (Ng 2011): plenty of units, of which a penalty lets few be active."""

from __future__ import annotations

from shared import batches, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import Ledger, nn

ACTIVE = 0.05


class Sparse(nn.Module):
    """An auto-encoder with 256 sigmoid units."""

    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(784, 256), nn.Sigmoid())
        self.decoder = nn.Linear(256, 784)

    def forward(self, x: ag.Tensor, weight: float) -> ag.Tensor:
        """Return the squared error plus a weight times the divergence of the units' mean activity
        from the one wanted."""
        code = self.encoder(x)
        share = code.mean(0)
        off = (1 - ACTIVE) * ((1 - ACTIVE) / (1 - share)).log()
        divergence = ACTIVE * (ACTIVE / share).log() + off
        loss: ag.Tensor = ag.mse_loss(self.decoder(code), x) + weight * divergence.mean()
        return loss


def trained(weight: float) -> tuple[float, float, Ledger, Ledger]:
    """Return mean activity and error of the test set, and the work of training and of an answer."""
    ag.manual_seed(0)
    (x, _), (test, _) = digits("train", 10_000), digits("test", 2_000)
    images, model = ag.tensor(test), Sparse()
    optimizer = ag.optim.Adam(model.parameters(), lr=2e-3)
    with counted() as training:
        some = (ag.tensor(x[batch]) for batch in batches(len(x), 100, epochs=5))
        minimise(optimizer, (model(y, weight) for y in some))
    with counted() as answer, ag.no_grad():
        model.decoder(model.encoder(images[:1]))
    with ag.no_grad():
        activity = model.encoder(images).mean().item()
        return activity, model(images, 0.0).item(), training, answer


def main() -> None:
    """Train with the penalty and without it."""
    dense, error, *_ = trained(0.0)
    activity, sparse_error, training, answer = trained(1.0)
    name = f"mean activity, {ACTIVE} wanted, squared error a pixel {sparse_error:.4f}"
    reference = f"without penalty, squared error {error:.4f}", dense
    report(name, activity, (0.045, 0.065), reference, training, answer)


if __name__ == "__main__":
    main()
