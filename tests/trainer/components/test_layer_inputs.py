"""Sums of what layers read: each under the layer that read it, whatever else a model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Tensor, nn
from tallygrad.autograd.array import array
from tallygrad.trainer.components.layer_inputs import LayerInputs

Forward = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Three layers of four units and whatever lies between them."""

    def __init__(self, forward: Forward) -> None:
        ag.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.elu = nn.ELU()
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4)."""
        return self.run(self, x)


def between(forward: Forward) -> list[str]:
    """Return the layers whose sums change with a bit of what layer `a` returns."""
    sums = []
    inputs = LayerInputs(["a", "b", "c"])
    for flips in (False, True):
        net = Net(forward)
        first, rows = net.a.forward, np.random.default_rng(0).normal(size=(3, 4)).astype("f4")

        def flipping(x: Tensor, flips: bool = flips, first: Forward = first) -> Tensor:  # type: ignore[assignment]
            y = first(x)  # type: ignore[call-arg, arg-type]
            y.array.value[0, 0] = 1.0 + flips
            return y

        net.a.forward = flipping  # type: ignore[assignment]
        with ag.context.using(backend="numpy"):
            loss = ag.cross_entropy(net(Tensor(array(rows))), ag.from_numpy(np.arange(3)))
            found = [x.item() for x in inputs.sums(loss)]
        sums.append(inputs.digests([found]))
    assert [name.removeprefix("input of ") for name in inputs.names] == ["a", "b", "c", "the loss"]
    return [inputs.names[i] for i in np.flatnonzero(sums[0] != sums[1])]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.c(net.b(net.a(x))),
        lambda net, x: net.c(ag.relu(net.b(ag.relu(net.a(x))))),  # in the net's own scope
        lambda net, x: net.c(net.b(net.elu(net.a(x)))),  # which reads it first
        lambda net, x: net.c(net.b((y := net.a(x)).reshape(12).reshape(3, 4)) + net.elu(y)),
    ],
)  # fmt: skip
def test_the_first_layer_that_reads_a_flip_is_the_first_to_differ(forward: Forward) -> None:
    assert between(forward) == ["input of b", "input of c", "input of the loss"]


def test_a_shared_layer_has_one_sum_of_all_that_it_reads() -> None:
    assert between(lambda net, x: net.c(net.a(net.a(x)))) == [
        "input of a", "input of c", "input of the loss",
    ]  # fmt: skip


def test_what_is_computed_again_is_not_told_apart() -> None:
    found = between(lambda net, x: net.c(ag.checkpoint(lambda h: net.b(net.a(h)), x)))
    assert found == ["input of c", "input of the loss"]


def test_without_layers_there_are_no_sums() -> None:
    inputs = LayerInputs([])
    x = ag.ones(2, requires_grad=True)
    assert inputs.sums(x.sum()) == [] and inputs.names == []
    assert inputs.digests([[], []]).shape == (0,)


def test_passes_without_samples_add_nothing() -> None:
    inputs = LayerInputs(["a"])
    assert inputs.digests([]).tolist() == inputs.digests([[], []]).tolist() == [0, 0]
