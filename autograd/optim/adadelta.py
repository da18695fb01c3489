"""Adadelta on flat buffers: one call per group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from ..array import Array
from ..ops import moments
from ..tensor import Parameter
from .group import Run, SlottedGroup
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule

SLOTS = ("square_avg", "acc_delta")


@dataclass
class AdadeltaGroup(SlottedGroup):
    """Parameters, and averages of the squares of their gradients and of their steps."""

    rho: float
    eps: float
    weight_decay: float

    def check(self) -> None:
        """ValueError for settings out of range."""
        self.check_least("lr", "eps", "weight_decay")
        self.check_least("rho", most=1)

    def slot_names(self) -> tuple[str, ...]:
        """Return the averages."""
        return SLOTS

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        decay = self.weight_decay * run.decay
        operands = self.operands(run, *SLOTS)
        moments.adadelta(
            *operands, self.narrow(run), lr, rho=self.rho, eps=self.eps, weight_decay=decay
        )


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012), in torch's form.

        g = grad + weight_decay w
        square_avg = rho square_avg + (1 - rho) g^2
        step = sqrt(acc_delta + eps) / sqrt(square_avg + eps) g
        acc_delta = rho acc_delta + (1 - rho) step^2
        w = w - lr step

    `lr` is a number or a schedule. Parameters and errors are those of `Optimizer`."""

    group = AdadeltaGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, named_parameters, **options)
