"""Deep belief net (Hinton, Osindero and Teh 2006): layers learn greedily from digits without
labels, then all together from the few that have one."""

from __future__ import annotations

from shared import accuracy, batches, class_losses, counted, digits, minimise, report

import tallygrad.autograd as ag
from tallygrad.autograd import nn

LABELLED = 500


def net() -> nn.Sequential:
    """Return two hidden layers of sigmoid units, and one that tells digits apart."""
    hidden = nn.Linear(784, 256), nn.Sigmoid(), nn.Linear(256, 128), nn.Sigmoid()
    return nn.Sequential(*hidden, nn.Linear(128, 10))


def pretrain(model: nn.Sequential, x: ag.Tensor) -> None:
    """Train a restricted Boltzmann machine for each hidden layer on what the one below makes of the
    images, and start the layer from it."""
    for layer in (model[0], model[2]):
        rbm = nn.RestrictedBoltzmannMachine(x.shape[1], len(layer.state_dict()["bias"]))
        optimizer = ag.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9)
        minimise(optimizer, (rbm(x[batch]) for batch in batches(len(x), 100, epochs=5)))
        layer.load_state_dict({"weight": rbm.weight.numpy(), "bias": rbm.hidden_bias.numpy()})
        with ag.no_grad():
            x = rbm.hidden_given(x)


def tune(model: nn.Module) -> None:
    """Train on the digits with labels."""
    optimizer = ag.optim.Adam(model.parameters(), lr=2e-3)
    losses = class_losses(model, *digits("train", LABELLED), epochs=60, size=50)
    minimise(optimizer, losses)


def main() -> None:
    """Compare with the same net that starts from random weights."""
    ag.manual_seed(0)
    test, random, model = digits("test", 2_000), net(), net()
    tune(random)
    with counted() as training:
        pretrain(model, ag.tensor(digits("train", 10_000)[0]))
        tune(model)
    with counted() as answer, ag.no_grad():
        model(ag.tensor(test[0][:1]))
    score, reference = accuracy(model, *test), ("without pretraining", accuracy(random, *test))
    report("test accuracy", score, (0.65, 0.75), reference, training, answer)


if __name__ == "__main__":
    main()
