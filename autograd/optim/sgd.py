"""Stochastic gradient descent on flat buffers: one call per group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from ..array import Array
from ..functional.create import zeros
from ..ops import update as ops
from ..tensor import Parameter
from .group import ParameterGroup, Run
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule


@dataclass
class SGDGroup(ParameterGroup):
    """Parameters and their velocity, (total size,), or () without momentum."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.velocity = self.slot() if self.momentum else zeros(dtype=self.flat.dtype).array

    def check(self) -> None:
        """ValueError for settings out of range, and for nesterov without momentum."""
        self.check_least("lr", "weight_decay")
        self.check_least("momentum", "dampening", most=1)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "SGD: expected momentum above 0 and dampening 0 with nesterov, "
                f"got {self.momentum} and {self.dampening}"
            )

    @property
    def counts_matter(self) -> bool:
        """True with dampening: the first gradient enters the velocity whole."""
        return bool(self.dampening)

    def own_slots(self) -> dict[str, Array]:
        """Return the velocity, where there is momentum."""
        return {"velocity": self.velocity} if self.momentum else {}

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        flat, (first, last, done, decay, _) = self.flat, run
        ops.sgd(
            flat.part(flat.data, first, last),
            flat.part(flat.grad, first, last),
            flat.part(self.velocity, first, last) if self.momentum else self.velocity,
            self.narrow(run),
            lr,
            momentum=self.momentum,
            dampening=self.dampening if done else 0.0,
            weight_decay=self.weight_decay * decay,
            nesterov=self.nesterov,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), in torch's form.

        d = grad + weight_decay w
        v = momentum v + (1 - dampening) d, in the first update v = d
        w = w - lr (d + momentum v  with nesterov, else v)

    `lr` is a number or a schedule of the step; it is an input of the update, so it may change. A
    parameter without a gradient, unless it is frozen, still moves by momentum and weight decay.
    Parameters and errors are those of `Optimizer`."""

    group = SGDGroup
    slots = ("velocity",)
    usual: ClassVar[Mapping[str, Any]] = {"momentum": 0.9, "weight_decay": 1e-4}

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults, named_parameters, **options)
