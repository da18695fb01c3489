"""Updates done twice: what goes wrong in one of them is found, named and undone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tallygrad.autograd import manual_seed, nn
from tallygrad.autograd.nn import flatten
from tallygrad.autograd.optim import SGD
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.update import Update
from tallygrad.trainer.distributed.verification.corruption import Corrupted
from tallygrad.trainer.distributed.verification.sealed import FlatRegion, SealedState
from tallygrad.trainer.distributed.verification.update import UpdateVerifier

NAMES = ["weight", "bias"]


class Setup:
    """A rank with a linear layer, whose update may be disturbed: `before` and `after` are called
    with the number of the update, from 0."""

    def __init__(self) -> None:
        manual_seed(0)
        self.flat = flatten([*nn.Linear(3, 2).parameters()])
        self.optimizer = SGD(self.flat, lr=0.5, momentum=0.9)
        self.velocity = self.optimizer.groups[0].slots()["velocity"]
        regions = [
            FlatRegion(self.flat.data, self.flat.offsets, [f"weights of {n}" for n in NAMES]),
            FlatRegion(self.velocity, self.flat.offsets, [f"velocity of {n}" for n in NAMES]),
        ]
        self.state = SealedState(0, regions)
        region = FlatRegion(self.flat.grad, self.flat.offsets, [f"gradient of {n}" for n in NAMES])
        self.gradients = SealedState(0, [region])
        self.before: Callable[[int], None] = lambda number: None
        self.after: Callable[[int], None] = lambda number: None
        self.count = 0
        self.update = Update(self.optimizer, SerialComm())
        self.step, self.update.step = self.update.step, self.disturbed  # type: ignore[method-assign]

    def disturbed(self) -> None:
        self.before(self.count)
        self.step()
        self.after(self.count)
        self.count += 1

    def run(self, steps: int = 2) -> list[str]:
        """Do some steps, in each of which the first attempts are disturbed alike."""
        told: list[str] = []
        for step in range(steps):
            self.flat.zero_missing()
            self.flat.grad.write(np.arange(8.0, dtype=np.float32) + step)
            self.state.seal()
            self.gradients.seal()
            self.count = 0
            arguments = SerialComm(), self.flat, self.update, self.gradients, self.state
            UpdateVerifier(*arguments).run(told.append)
            assert self.state.mend() == -1  # the new one is sealed
        return told

    def result(self) -> list[float]:
        return [*self.flat.data.value.tolist(), *self.velocity.value.tolist(), self.update.rates[0],
                self.optimizer.steps]  # fmt: skip


@pytest.fixture
def sound() -> list[float]:
    setup = Setup()
    begin = setup.flat.data.value.copy()
    assert setup.run() == []
    assert setup.optimizer.steps == 2 and not np.array_equal(setup.flat.data.value, begin)
    weights = begin - 0.5 * np.arange(8.0) - 0.5 * (0.9 * np.arange(8.0) + np.arange(8.0) + 1)
    assert np.allclose(setup.flat.data.value, weights)
    return setup.result()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("when", "what", "index", "line"),
    [
        ("after", "data", 7, "rank 0: wrong update of weights of bias"),
        ("after", "velocity", 0, "rank 0: wrong update of velocity of weight"),
        ("before", "grad", 2, "rank 0: wrong update of weights of weight"),
        ("before", "data", 2, "rank 0: wrong update of weights of weight"),
    ],
)
def test_a_disturbed_update_is_done_again(
    sound: list[float], number: int, when: str, what: str, index: int, line: str
) -> None:
    setup = Setup()

    def disturb(count: int) -> None:
        if count == number:
            array = {"data": setup.flat.data, "grad": setup.flat.grad}.get(what, setup.velocity)
            array.value[index] += 1

    setattr(setup, when, disturb)
    told = setup.run()
    assert [each for each in told if "wrong" in each] == [line] * 2
    assert setup.result() == sound


def test_a_change_before_the_update_is_named(sound: list[float]) -> None:
    setup = Setup()
    seal = setup.gradients.seal

    def sealing() -> None:
        seal()
        setup.flat.grad.value[0] += 1
        setup.velocity.value[7] += 1

    setup.gradients.seal = sealing  # type: ignore[method-assign]
    told = setup.run()
    assert told == ["rank 0: gradient of weight changed", "rank 0: velocity of bias changed"] * 2
    assert setup.result() == sound


def test_what_goes_wrong_each_time_ends_the_run() -> None:
    setup = Setup()
    setup.after = lambda count: setup.flat.data.write(setup.flat.data.value + count)
    with pytest.raises(Corrupted, match="weights of weight after the update"):
        setup.run()
