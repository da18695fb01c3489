"""Schedulers of other schedulers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from .base import LRScheduler, Rated, rates_of, set_rates

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Combined(LRScheduler):
    """Schedulers of one optimizer. ValueError for none, and for those of another one."""

    def __init__(self, optimizer: Rated | None, schedulers: Sequence[LRScheduler]) -> None:
        name = type(self).__name__
        if not schedulers:
            raise ValueError(f"{name}: expected at least one scheduler, got none")
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        if any(s.optimizer is not self.optimizer for s in schedulers):
            raise ValueError(f"{name}: expected schedulers of one optimizer, got several")
        self.schedulers = [*schedulers]
        self.base_lrs = [*schedulers[0].base_lrs]

    def get_last_lr(self) -> list[float]:
        """Return the rate of each group."""
        return rates_of(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return what it needs to continue, besides the arguments that it was made with."""
        return {
            "last_epoch": self.last_epoch,
            "last_lr": self.get_last_lr(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned. ValueError for other numbers of schedulers."""
        own = state["schedulers"]
        if len(own) != len(self.schedulers):
            raise ValueError(
                f"lr_scheduler: expected {len(self.schedulers)} schedulers, got {len(own)}"
            )
        for scheduler, part in zip(self.schedulers, own, strict=True):
            scheduler.load_state_dict(part)
        self.last_epoch = int(state["last_epoch"])
        set_rates(self.optimizer, state["last_lr"])


class SequentialLR(_Combined):
    """Schedulers one after the other: the next one begins at each milestone, an epoch."""

    def __init__(
        self,
        optimizer: Rated,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: expected {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        self.milestones, self.last_epoch = [*milestones], last_epoch + 1
        # Each one has begun when it was made; only the first one should have.
        set_rates(optimizer, self.base_lrs)
        for scheduler in self.schedulers:
            scheduler.last_epoch -= 1
        self.schedulers[0].advance()

    def advance(self, epoch: float | None = None) -> None:
        """Let the scheduler whose turn it is set the rates."""
        self.last_epoch += 1
        turn = bisect_right(self.milestones, self.last_epoch)
        begins = turn > 0 and self.milestones[turn - 1] == self.last_epoch
        self.schedulers[turn].advance(0 if begins else None)


class ChainedScheduler(_Combined):
    """Several schedulers at once: their factors are multiplied."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Rated | None = None) -> None:
        super().__init__(optimizer, schedulers)
        self.last_epoch = schedulers[0].last_epoch if schedulers else 0

    def advance(self, epoch: float | None = None) -> None:
        """Let all schedulers set the rates, one after the other."""
        self.last_epoch += 1
        for scheduler in self.schedulers:
            scheduler.advance()
