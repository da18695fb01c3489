"""Averages of weights that go along with an optimizer: of the last steps (EMA), and Lookahead.

They are slots of its groups: in its state, and updated with the weights. `optimizer.add(..)` begins
one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..array import Array, array
from ..nn.flat import FlatParameters
from ..ops.update import average, store
from .schedules import Schedule


@dataclass(frozen=True)
class EMA:
    """An exponential moving average of the weights, which changes nothing of the training.

        average = average + (1 - min(decay, (1 + t) / (10 + t))) (w - average)

    after step t = 1, 2, ..; the rate is larger at first, so that the initial weights are soon
    forgotten. `optimizer.averaged()` lets the parameters have the average for a while. ValueError
    for a decay that is not in [0, 1)."""

    decay: float = 0.999
    slot: ClassVar[str] = "ema"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA: expected decay in [0, 1), got {self.decay}")

    def update(self, flat: FlatParameters, slot: Array, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        average(slot, flat.data, array(rate, flat.computed_in))


@dataclass(frozen=True)
class Falling:
    """A share that falls from 1 to `end` over `total` steps (Jordan 2024).

        1 - (1 - end) (step / total)^power

    ValueError for an end that is not in [0, 1], no steps, and a power below 0."""

    end: float
    total: int
    power: float = 3.0

    def __post_init__(self) -> None:
        if not (0 <= self.end <= 1 and self.total >= 1 and self.power >= 0):
            raise ValueError(
                "Falling: expected end in [0, 1], total of at least 1 and power of at least 0, "
                f"got {self.end}, {self.total} and {self.power}"
            )

    def __call__(self, step: int) -> float:
        return 1 - (1 - self.end) * min(step / self.total, 1) ** self.power


@dataclass(frozen=True)
class Lookahead:
    """Slow weights, which every `k` steps move towards the others, and replace them (Zhang et al.
    2019).

        slow = slow + alpha (w - slow), w = slow

    `alpha` is a number, or a function of the steps that were made, such as `Falling`. ValueError
    for k below 1, or alpha that is not in [0, 1]."""

    k: int = 5
    alpha: float | Schedule = 0.5
    slot: ClassVar[str] = "slow"

    def __post_init__(self) -> None:
        if not (self.k >= 1 and self.k % 1 == 0) or not (
            callable(self.alpha) or 0 <= self.alpha <= 1
        ):
            raise ValueError(
                f"Lookahead: expected a whole k of at least 1 and alpha in [0, 1], "
                f"got {self.k} and {self.alpha}"
            )

    def update(self, flat: FlatParameters, slot: Array, step: int) -> None:
        """Move the weights after a step, counted from 1, if it is a k-th one."""
        if step % self.k == 0:
            alpha = self.alpha(step) if callable(self.alpha) else self.alpha
            average(slot, flat.data, array(alpha, flat.computed_in))
            store(flat.data, slot)
