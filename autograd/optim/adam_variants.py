"""Relatives of Adam: NAdam, RAdam and Adamax, on flat buffers, one call per group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, Unpack

from ..array import Array, array
from ..ops import moments
from ..tensor import Parameter
from .adam import AveragingGroup
from .group import Run
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule

SLOTS = ("exp_avg", "exp_avg_sq")


@dataclass
class NAdamGroup(AveragingGroup):
    """The averages of Adam."""

    momentum_decay: float
    decoupled_weight_decay: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._products = [1.0]  # of the momenta of steps so far

    def check(self) -> None:
        """ValueError for settings out of range."""
        super().check()
        self.check_least("momentum_decay")

    def momentum(self, step: int) -> float:
        """Return the momentum of a step, counted from 1."""
        return self.betas[0] * (1 - 0.5 * 0.96 ** (step * self.momentum_decay))

    def product(self, step: int) -> float:
        """Return the product of the momenta of the first steps."""
        while len(self._products) <= step and self._products[-1]:  # until it is 0
            self._products.append(self._products[-1] * self.momentum(len(self._products)))
        return self._products[min(step, len(self._products) - 1)]

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        now, ahead = run.done + 1, run.done + 2
        moments.nadam(
            *self.operands(run, *SLOTS),
            self.narrow(run),
            lr,
            array((1 - self.momentum(now)) / (1 - self.product(now))),
            array(self.momentum(ahead) / (1 - self.product(ahead))),
            self.biases(run)[1],
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay * run.decay,
            decoupled=self.decoupled_weight_decay,
        )


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), in torch's form.

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2)
        w = w - lr ((1 - mu(t)) / (1 - mu(1) .. mu(t)) g
                    + mu(t + 1) / (1 - mu(1) .. mu(t + 1)) exp_avg) / (root + eps)

    in a parameter's t-th update, with Adam's averages and root; `decoupled_weight_decay` is that of
    AdamW. `lr` is a number or a schedule. Parameters and errors are those of `Optimizer`."""

    group = NAdamGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)


@dataclass
class RAdamGroup(AveragingGroup):
    """The averages of Adam."""

    decoupled_weight_decay: bool

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call: a step of Adam with another rate, and, as
        long as there are too few squares, with 1 instead of their root."""
        bias1, bias2 = (float(bias.value) for bias in self.biases(run))
        share = self.rectification(run.done + 1, bias2)
        moments.adam(
            *self.operands(run, *SLOTS),
            self.unused,
            self.narrow(run),
            lr,
            array(bias1 / (share * sqrt(bias2)) if share else bias1),
            array(1.0 if share else inf),
            betas=self.betas,
            eps=self.eps if share else 1.0,
            weight_decay=self.weight_decay * run.decay,
            decoupled=self.decoupled_weight_decay,
        )

    def rectification(self, step: int, bias: float) -> float:
        """Return the factor of a step's rate, 0 where the variance of its root has no bound."""
        last = 2 / (1 - self.betas[1]) - 1
        length = last - 2 * step * (1 - bias) / bias
        if length <= 5:
            return 0.0
        return sqrt((length - 4) * (length - 2) * last / ((last - 4) * (last - 2) * length))


class RAdam(Optimizer):
    """Adam whose rate is rectified for the variance of its root (Liu et al. 2020), in torch's form.

        last = 2 / (1 - beta2) - 1
        n = last - 2 t beta2^t / (1 - beta2^t)
        r = sqrt((n - 4) (n - 2) last / ((last - 4) (last - 2) n))
        w = w - lr / (1 - beta1^t) exp_avg (r sqrt(1 - beta2^t) / (sqrt(exp_avg_sq) + eps)
                                            where n > 5, else 1)

    in a parameter's t-th update, with Adam's averages; `decoupled_weight_decay` is that of AdamW.
    `lr` is a number or a schedule. Parameters and errors are those of `Optimizer`."""

    group = RAdamGroup
    slots = SLOTS

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)


@dataclass
class AdamaxGroup(AveragingGroup):
    """The average of gradients, and their largest absolute values, which fade."""

    def slot_names(self) -> tuple[str, ...]:
        """Return the average and the largest values."""
        return ("exp_avg", "exp_inf")

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters in one call."""
        moments.adamax(
            *self.operands(run, *self.slot_names()),
            self.narrow(run),
            lr,
            self.biases(run)[0],
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay * run.decay,
        )


class Adamax(Optimizer):
    """Adam with the largest absolute value of gradients instead of a root (Kingma and Ba 2015), in
    torch's form.

        g = grad + weight_decay w
        exp_avg = exp_avg + (1 - beta1) (g - exp_avg)
        exp_inf = max(beta2 exp_inf, |g| + eps)
        w = w - lr / (1 - beta1^t) exp_avg / exp_inf

    in a parameter's t-th update. `lr` is a number or a schedule. Parameters and errors are those of
    `Optimizer`."""

    group = AdamaxGroup
    slots = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, named_parameters, **options)
