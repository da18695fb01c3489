"""Adagrad on flat buffers: one call per group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from ..array import Array, array
from ..functional.create import full
from ..ops import moments
from ..tensor import Parameter
from .group import Run, SlottedGroup
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule


@dataclass
class AdagradGroup(SlottedGroup):
    """Parameters and the sums of their squared gradients."""

    lr_decay: float
    weight_decay: float
    initial_accumulator_value: float
    eps: float

    def check(self) -> None:
        """ValueError for negative settings."""
        self.check_least("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    @property
    def counts_matter(self) -> bool:
        """True where the rate of a parameter decays with its updates."""
        return self.lr_decay > 0

    def slot_names(self) -> tuple[str, ...]:
        """Return the sum."""
        return ("sum",)

    def slot(self) -> Array:
        """Return sums before the first update."""
        start = self.initial_accumulator_value
        return full(self.flat.data.shape, start, dtype=self.flat.dtype).array

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        if self.lr_decay:
            lr = array(float(lr.value) / (1 + run.done * self.lr_decay), self.flat.computed_in)
        operands = self.operands(run, "sum")
        decay = self.weight_decay * run.decay
        moments.adagrad(*operands, self.narrow(run), lr, eps=self.eps, weight_decay=decay)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), in torch's form.

        g = grad + weight_decay w
        sum = sum + g^2
        w = w - lr / (1 + (t - 1) lr_decay) g / (sqrt(sum) + eps)

    in a parameter's t-th update; sums begin with `initial_accumulator_value`. `lr` is a number or a
    schedule. Parameters and errors are those of `Optimizer`."""

    group = AdagradGroup
    slots = ("sum",)

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)
