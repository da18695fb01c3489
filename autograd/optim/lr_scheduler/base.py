"""What all schedulers share: the rates of an optimizer, and steps from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, floor, pi
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from ..group import ParameterGroup

Each: TypeAlias = float | Sequence[float]  # one number for all groups, or one for each


class Rated(Protocol):
    """What has learning rates: an optimizer, or one that `trainer.distribute` returned."""

    @property
    def in_loop(self) -> bool:
        """Whether it is within a loop that ranks run different numbers of times."""

    @property
    def groups(self) -> list[ParameterGroup]:
        """The groups of parameters."""


_initial: WeakKeyDictionary[Rated, list[float]] = WeakKeyDictionary()


def rates_of(optimizer: Rated) -> list[float]:
    """Return the rate of each group. ValueError for a group whose rate is a schedule."""
    rates = [group.lr for group in optimizer.groups]
    if any(map(callable, rates)):
        raise ValueError("lr_scheduler: expected an optimizer with a number as lr, got a schedule")
    return [rate for rate in rates if not callable(rate)]


def set_rates(optimizer: Rated, rates: Sequence[float]) -> None:
    """Give each group its rate."""
    for group, rate in zip(optimizer.groups, rates, strict=True):
        group.lr = rate


def each(name: str, value: Any, optimizer: Rated) -> list[Any]:
    """Return a setting for each group. ValueError for a list of another length."""
    groups = len(optimizer.groups)
    values = [*value] if isinstance(value, list | tuple) else [value] * groups
    if len(values) != groups:
        raise ValueError(f"{name}: expected one for each of {groups} groups, got {len(values)}")
    return values


def check_outside_loop(optimizer: Rated) -> None:
    """RuntimeError within a loop that ranks run different numbers of times: rates would differ."""
    if optimizer.in_loop:
        raise RuntimeError(
            "lr_scheduler: expected step() after a loop over a loader of distribute(), got it "
            "within; to step it after each update, as on one rank, call "
            "optimizer.register_step_post_hook(lambda *_: scheduler.step()) before the loop"
        )


class LRScheduler:
    """Sets the learning rates of an optimizer; the first ones when it is made.

    A subclass defines `rate` or, as in torch, `get_lr`. `last_epoch` is the number of the last
    epoch that is over, -1 at the start. ValueError for an optimizer whose rate is a schedule."""

    absolute = False  # True: sets its rates whatever the current ones are

    def __init__(self, optimizer: Rated, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        self.base_lrs = [*_initial.setdefault(optimizer, rates_of(optimizer))]
        self.last_epoch = last_epoch
        self._last_lr = [*self.base_lrs]
        self.advance()

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group, by number, in an epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no rate")

    def get_lr(self) -> list[float]:
        """Return the rate of each group in `last_epoch`."""
        return [self._next(i, now) for i, now in enumerate(rates_of(self.optimizer))]

    def _next(self, group: int, now: float) -> float:
        epoch = self.last_epoch
        new = self.rate(group, epoch)
        before = self.rate(group, epoch - 1) if epoch > 0 else self.base_lrs[group]
        return new if self.absolute or now == before or not before else now * new / before

    def step(self, epoch: float | None = None) -> None:
        """Begin the next epoch, or the given one, of which there may be fractions.

        RuntimeError within a loop over a loader of `trainer.distribute`."""
        check_outside_loop(self.optimizer)
        self.advance(epoch)

    def advance(self, epoch: float | None = None) -> None:
        """Set the rates of the next epoch, or of the given one."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else floor(epoch)
        groups = range(len(self.base_lrs))
        self._set(self.get_lr() if epoch is None else [self.rate(i, epoch) for i in groups])

    def _set(self, rates: list[float]) -> None:
        self._last_lr = rates
        set_rates(self.optimizer, rates)

    def get_last_lr(self) -> list[float]:
        """Return the rate of each group that was set last."""
        return [*self._last_lr]

    def state_dict(self) -> dict[str, Any]:
        """Return what it needs to continue, besides the arguments that it was made with."""
        return {
            "last_epoch": self.last_epoch, "base_lrs": [*self.base_lrs], "last_lr": [*self._last_lr]
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned: the groups get their rates, too.

        ValueError for a state of another number of groups."""
        base, last = (
            [*map(float, each(f"lr_scheduler: {name}", [*state[name]], self.optimizer))]
            for name in ("base_lrs", "last_lr")
        )
        self.base_lrs, self.last_epoch = base, int(state["last_epoch"])
        self._set(last)


def on_cosine(first: float, last: float, done: float) -> float:
    """Return the rate on half a cosine from `first` to `last`, `done` of the way."""
    return last + (first - last) * (1 + cos(pi * done)) / 2


def positive(name: str, value: int) -> None:
    """ValueError for a number below 1."""
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
