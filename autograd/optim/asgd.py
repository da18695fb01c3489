"""Averaged gradient descent on flat buffers: one call per group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from ..array import Array, array
from ..ops import moments
from ..tensor import Parameter
from .group import Run, SlottedGroup
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule


@dataclass
class ASGDGroup(SlottedGroup):
    """Parameters and their average."""

    lambd: float
    alpha: float
    t0: float
    weight_decay: float

    def check(self) -> None:
        """ValueError for negative settings."""
        self.check_least("lr", "lambd", "alpha", "t0", "weight_decay")

    @property
    def counts_matter(self) -> bool:
        """True: the rate falls with the updates of a parameter."""
        return True

    def slot_names(self) -> tuple[str, ...]:
        """Return the average."""
        return ("ax",)

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        rate = float(lr.value)
        moments.asgd(
            *self.operands(run, "ax"),
            self.narrow(run),
            array(rate / (1 + self.lambd * rate * run.done) ** self.alpha, self.flat.computed_in),
            array(1 / max(1.0, run.done - self.t0)),
            lambd=self.lambd,
            weight_decay=self.weight_decay * run.decay,
            averages=run.done - self.t0 > 1,
        )


class ASGD(Optimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky 1992), in torch's form.

        g = grad + weight_decay w
        eta = lr / (1 + lambd lr (t - 1))^alpha
        w = w (1 - lambd eta) - eta g
        ax = ax + (w - ax) / max(1, t - 1 - t0)

    in a parameter's t-th update; "ax", the average, is a slot of the state. `lr` is a number or a
    schedule, whose rate counts in its own step; in torch, it counts one step later. Parameters and
    errors are those of `Optimizer`."""

    group = ASGDGroup
    slots = ("ax",)

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)
