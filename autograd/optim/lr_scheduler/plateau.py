"""Rates that fall when a value no longer becomes better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import schedules
from .base import Each, Rated, check_outside_loop, each, rates_of, set_rates

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau:
    """Multiply by `factor` where a value, which `step(value)` takes, has not become better for more
    than `patience` calls; see `schedules.ReduceLROnPlateau`. On several ranks all need the same
    value, such as that of `trainer.evaluate`."""

    def __init__(
        self,
        optimizer: Rated,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: Each = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.optimizer, self.last_epoch = optimizer, 0
        least = each("ReduceLROnPlateau: min_lr", min_lr, optimizer)
        self._plateaus = [
            schedules.ReduceLROnPlateau(
                rate, mode, factor, patience, threshold, threshold_mode, cooldown, low, eps
            )
            for rate, low in zip(rates_of(optimizer), least, strict=True)
        ]

    def step(self, metrics: Any) -> None:
        """Take in a value: a number, or a tensor of one."""
        check_outside_loop(self.optimizer)
        self.last_epoch += 1
        for plateau, rate in zip(self._plateaus, rates_of(self.optimizer), strict=True):
            plateau.lr = rate
            plateau.observe(float(metrics))
        set_rates(self.optimizer, self.get_last_lr())

    def get_last_lr(self) -> list[float]:
        """Return the rate of each group that was set last."""
        return [plateau.lr for plateau in self._plateaus]

    def state_dict(self) -> dict[str, Any]:
        """Return what it needs to continue, besides the arguments that it was made with."""
        groups = [plateau.state_dict() for plateau in self._plateaus]
        return {"last_epoch": self.last_epoch, "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned: the groups get their rates, too.

        ValueError for a state of another number of groups."""
        groups = each("lr_scheduler: groups", [*state["groups"]], self.optimizer)
        for plateau, own in zip(self._plateaus, groups, strict=True):
            plateau.load_state_dict(own)
        self.last_epoch = int(state["last_epoch"])
        set_rates(self.optimizer, self.get_last_lr())
