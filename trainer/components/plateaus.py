"""Learning rates that fall where evaluations bring nothing better: the value that they watch, and
their state in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd.optim import Optimizer
from ...autograd.optim.schedules import ReduceLROnPlateau, Warmup
from ..distributed.update import Update
from ..errors import UserError


class Plateaus:
    """The schedules of an update that observe `metric`, loss or a metric of the task, of the
    validation set, whose name is `split`. UserError where there are some, but no such set."""

    def __init__(self, update: Update, metric: str, split: str | None) -> None:
        self.figure = f"{split}_{metric}"
        self.each = [_plateaus(optimizer) for optimizer in update.optimizers]
        self.rates = [plateau.lr for plateau in self.each[0]]
        if self.rates and split is None:
            raise UserError(
                "--schedule plateau: expected --validation above 0, or data with a validation set, "
                "got neither"
            )

    def observe(self, figures: Mapping[str, float]) -> str:
        """Take in the figures of an evaluation; return a line where a rate falls, else ""."""
        before = [plateau.lr for plateau in self.each[0]]
        for plateau in (plateau for plateaus in self.each for plateau in plateaus):
            plateau.observe(figures[self.figure])
        now = [plateau.lr for plateau in self.each[0]]
        rates = ", ".join(f"{rate:g}" for rate in now)
        what = self.figure.replace("_", " ")
        return "" if now == before else f"{what} has not become better: learning rate {rates}"

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the state of each schedule, and the rate that it has begun with, by names such as
        0/best."""
        states = [{"begun": rate, **plateau.state_dict()}
                  for rate, plateau in zip(self.rates, self.each[0], strict=True)]  # fmt: skip
        return {
            f"{i}/{name}": np.asarray(value, np.float64)
            for i, state in enumerate(states)
            for name, value in state.items()
        }

    def load(self, path: Path, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state in a checkpoint, {} for one without. A schedule that has begun with
        another rate than then goes on with that. UserError for what is no state."""
        for i, begun in enumerate(self.rates if state else ()):
            names = ("begun", "lr", *self.each[0][i].state_dict())
            try:
                values = {name: float(state[f"{i}/{name}"]) for name in names}
                if not 0 <= values["lr"] < inf:
                    raise ValueError(f"expected a rate of at least 0, got {values['lr']}")
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(f"{path}: schedule: cannot be resumed from: {error}") from error
            if values["begun"] != begun:
                values["lr"] = begun
            for plateaus in self.each:
                plateaus[i].load_state_dict(values)


def _plateaus(optimizer: Optimizer) -> list[ReduceLROnPlateau]:
    """Return the schedules of an optimizer that observe values, each once."""
    found: dict[int, ReduceLROnPlateau] = {}
    for group in optimizer.groups:
        schedule = group.lr
        while isinstance(schedule, Warmup):
            schedule = schedule.after
        if isinstance(schedule, ReduceLROnPlateau):
            found[id(schedule)] = schedule
    return [*found.values()]
