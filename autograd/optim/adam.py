"""Adam and AdamW on flat buffers: one call per group and step."""

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

SLOTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


@dataclass
class AveragingGroup(SlottedGroup):
    """Parameters, and averages of their gradients and of their squares."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float

    def check(self) -> None:
        """ValueError for negative settings, and for betas that are not two numbers in [0, 1)."""
        self.check_least("lr", "eps", "weight_decay")
        self.check_pair("betas", lambda x, y: 0 <= x < 1 and 0 <= y < 1, "in [0, 1)")

    @property
    def counts_matter(self) -> bool:
        """True: averages are corrected for the zeros that they began with."""
        return True

    def slot_names(self) -> tuple[str, ...]:
        """Return the averages."""
        return ("exp_avg", "exp_avg_sq")

    def biases(self, run: Run) -> list[Array]:
        """Return the corrections of a run's averages."""
        return [array(1 - beta ** (run.done + 1)) for beta in self.betas]


@dataclass
class AdamGroup(AveragingGroup):
    """The same, and with amsgrad the largest averages of squares."""

    amsgrad: bool
    decoupled_weight_decay: bool

    def slot_names(self) -> tuple[str, ...]:
        """Return the averages, and the largest one with amsgrad."""
        return SLOTS[: 2 + self.amsgrad]

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        moments.adam(
            *self.operands(run, *SLOTS),
            self.narrow(run),
            lr,
            *self.biases(run),
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay * run.decay,
            decoupled=self.decoupled_weight_decay,
            amsgrad=self.amsgrad,
        )


class AdamWGroup(AdamGroup):
    """The same, for AdamW."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in torch's form.

        g = grad + weight_decay w
        exp_avg = exp_avg + (1 - beta1) (g - exp_avg)
        exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) g^2
        w = w - lr / (1 - beta1^t) exp_avg / (sqrt(exp_avg_sq / (1 - beta2^t)) + eps)

    in a parameter's t-th update; `amsgrad` takes the largest exp_avg_sq so far (Reddi et al. 2018),
    and `decoupled_weight_decay` makes it AdamW.
    `lr` is a number or a schedule. Parameters and errors are those of `Optimizer`."""

    group = AdamGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): instead of joining the
    gradient, it multiplies the weights by 1 - lr weight_decay."""

    group = AdamWGroup

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, named_parameters, True, **options
        )
