"""Rprop on flat buffers: one call per group and step."""

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

SLOTS = ("prev", "step_size")


@dataclass
class RpropGroup(SlottedGroup):
    """Parameters, their gradients of the step before, and the sizes of their steps."""

    etas: tuple[float, float]
    step_sizes: tuple[float, float]

    def check(self) -> None:
        """ValueError for settings out of range."""
        self.check_least("lr")
        self.check_pair("etas", lambda x, y: 0 < x < 1 < y, "with 0 < x < 1 < y")
        self.check_pair("step_sizes", lambda x, y: 0 <= x <= y, "with 0 <= x <= y")

    @property
    def counts_matter(self) -> bool:
        """True: the first step of a parameter has the size `lr`."""
        return True

    def slot_names(self) -> tuple[str, ...]:
        """Return gradients and sizes."""
        return SLOTS

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        moments.rprop(
            *self.operands(run, *SLOTS), self.narrow(run), lr, etas=self.etas,
            step_sizes=self.step_sizes, first=run.done == 0,
        )  # fmt: skip


class Rprop(Optimizer):
    """Resilient backpropagation (Riedmiller and Braun 1993), in torch's form, for gradients of all
    data: only their signs count.

        step_size = step_size etas[1] where the gradient has the sign of the step before, etas[0]
                    where it has the other one, within `step_sizes`
        w = w - step_size sign(grad), 0 where the sign has turned

    The first step has the size `lr`, a number or a schedule; its later rates do not matter.
    Parameters and errors are those of `Optimizer`."""

    group = RpropGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "etas": etas, "step_sizes": step_sizes}
        super().__init__(params, defaults, named_parameters, **options)
