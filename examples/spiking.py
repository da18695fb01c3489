"""Spiking net (Neftci, Mostafa and Zenke 2019): integrate-and-fire units, trained with a surrogate
gradient, and the same net without spikes, both priced on a chip that works by events."""

from __future__ import annotations

from shared import accuracy, class_losses, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.capture.sparsity import Sparsity
from tallygrad.trainer.cost.machines.machine import load

STEPS = 6


class Net(nn.Module):
    """One hidden layer; with spikes, pixels spike as often as they are bright."""

    def __init__(self, spikes: bool) -> None:
        self.spikes, self.cell = spikes, nn.LIF() if spikes else nn.ReLU()
        self.inner, self.outer = nn.Linear(784, 128), nn.Linear(128, 10)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """Return (N, 10), with spikes the mean of all steps; x (N, 784)."""
        if self.spikes:
            x = ag.stack([ag.bernoulli(x) for _ in range(STEPS)])
        y: ag.Tensor = self.outer(self.cell(self.inner(x)))
        return y.mean(0) if self.spikes else y


def events(net: Net, images: ag.Tensor) -> tuple[float, float]:
    """Return the events of an image, MACs without a zero factor, and their nanojoules."""
    with counted() as ledger, ag.no_grad(), context.using(observer=Sparsity(ledger)):
        net(images)
    found = sum(sample.nonzero for sample in ledger.sampled.values()) / len(images)
    return found, 1e9 * (load("truenorth").price(ledger.total(), found).joules or 0)


def main() -> None:
    """Train both on 10,000 digits."""
    scores = {}
    for spikes in (False, True):
        ag.manual_seed(0)
        net, test = Net(spikes), digits("test", 2_000)
        optimizer = ag.optim.Adam(net.parameters(), lr=2e-3)
        with counted() as training:
            minimise(optimizer, class_losses(net, *digits("train", 10_000), epochs=4))
        scores[spikes] = accuracy(net, *test)
        many, nanojoules = events(net, ag.tensor(test[0][:500]))
        print(
            f"{'spikes' if spikes else 'none':<11}{many:.0f} events, {nanojoules:.0f} nJ an image"
        )
    with counted() as answer, ag.no_grad():
        net(ag.tensor(test[0][:1]))
    reference = "without spikes", scores[False]
    report("test accuracy", scores[True], (0.85, 0.91), reference, training, answer)


if __name__ == "__main__":
    main()
