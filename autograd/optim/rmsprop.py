"""RMSprop on flat buffers: one call per group and step."""

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

SLOTS = ("square_avg", "grad_avg", "momentum_buffer")


@dataclass
class RMSpropGroup(SlottedGroup):
    """Parameters, the averages of their squared gradients, where centered those of the gradients,
    and with momentum a velocity."""

    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    centered: bool

    def check(self) -> None:
        """ValueError for settings out of range."""
        self.check_least("lr", "eps", "weight_decay")
        self.check_least("alpha", "momentum", most=1)

    def slot_names(self) -> tuple[str, ...]:
        """Return the slots that the settings need."""
        used = (True, self.centered, self.momentum > 0)
        return tuple(name for name, uses in zip(SLOTS, used, strict=True) if uses)

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        moments.rmsprop(
            *self.operands(run, *SLOTS),
            self.narrow(run),
            lr,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay * run.decay,
            momentum=self.momentum,
            centered=self.centered,
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012), in torch's form.

        g = grad + weight_decay w
        square_avg = alpha square_avg + (1 - alpha) g^2
        g = g / (sqrt(square_avg) + eps)
        momentum_buffer = momentum momentum_buffer + g
        w = w - lr (momentum_buffer  with momentum, else g)

    `centered` takes the variance, square_avg - grad_avg^2, instead of square_avg (Graves 2013).
    `lr` is a number or a schedule. Parameters and errors are those of `Optimizer`."""

    group = RMSpropGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum, "centered": centered,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)
