"""Optimizers that look at a whole parameter: LARS, LAMB and Muon. One call per parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Unpack

from ..array import Array
from ..ops import layerwise, moments
from ..orthogonal import COEFFICIENTS, Coefficients, matrix_of
from ..tensor import Parameter
from .adam import AveragingGroup
from .group import Run, SlottedGroup
from .optimizer import Optimizer, Options, Parameters
from .schedules import Schedule


@dataclass
class LARSGroup(SlottedGroup):
    """Parameters and their velocity."""

    momentum: float
    weight_decay: float
    trust_coefficient: float
    eps: float

    def check(self) -> None:
        """ValueError for settings out of range."""
        self.check_least("lr", "weight_decay", "trust_coefficient", "eps")
        self.check_least("momentum", most=1)

    def slot_names(self) -> tuple[str, ...]:
        """Return the velocity."""
        return ("velocity",)

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters, in a call each."""
        for one in each(run):
            layerwise.lars(
                *self.operands(one, "velocity"),
                lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay * run.decay,
                trust_coefficient=self.trust_coefficient,
                eps=self.eps,
                adapts=len(self.flat.shapes[one.first]) > 1,
            )


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling for large batches (You et al. 2017): SGD with momentum in
    torch's form, whose steps are a share of each parameter's norm.

        rate = trust_coefficient |w| / (|grad| + weight_decay |w| + eps)
        velocity = momentum velocity + rate (grad + weight_decay w)
        w = w - lr velocity

    Parameters with one axis, such as biases, have rate 1. Parameters and errors are those of
    `Optimizer`."""

    group = LARSGroup
    slots = ("velocity",)
    elementwise = False

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient, "eps": eps,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)


class LAMBGroup(AveragingGroup):
    """The same, for LAMB."""

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters, in a call each."""
        for one in each(run):
            layerwise.lamb(
                *self.operands(one, *self.slot_names()),
                lr,
                *self.biases(run),
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay * run.decay,
                adapts=len(self.flat.shapes[one.first]) > 1,
            )


class LAMB(Optimizer):
    """Layer-wise adaptive moments for large batches (You et al. 2020): AdamW, whose steps are as
    large as the parameter's norm.

        r = Adam's step + weight_decay w
        w = w - lr |w| / |r| r

    Parameters with one axis, such as biases, take r as it is. Parameters and errors are those of
    `Optimizer`."""

    group = LAMBGroup
    slots = ("exp_avg", "exp_avg_sq")
    elementwise = False

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, named_parameters, **options)


@dataclass
class MuonGroup(AveragingGroup):
    """The same, for Muon: matrices have no averages of squares, these stay zeros."""

    momentum: float
    nesterov: bool
    ns_coefficients: Coefficients
    ns_steps: int
    adjust_lr_fn: str | None

    SCALES: ClassVar = {
        "original": lambda rows, columns: sqrt(max(1.0, rows / columns)),
        "match_rms_adamw": lambda rows, columns: 0.2 * sqrt(max(rows, columns)),
    }

    def check(self) -> None:
        """ValueError for settings out of range."""
        super().check()
        self.check_least("momentum", most=1)
        if not isinstance(self.ns_steps, int) or not 0 <= self.ns_steps <= 100:
            raise ValueError(
                f"Muon: expected a whole ns_steps in [0, 100], got {self.ns_steps!r:.60}"
            )
        if self.adjust_lr_fn not in (None, *self.SCALES):
            known = " or ".join(self.SCALES)
            raise ValueError(f"Muon: expected adjust_lr_fn {known}, got {self.adjust_lr_fn!r:.60}")
        if len(self.ns_coefficients) != 3:
            raise ValueError(
                f"Muon: expected three ns_coefficients, got {len(self.ns_coefficients)}"
            )
        a, b, c = self.ns_coefficients
        self.ns_coefficients = (a, b, c)  # hashable, also if a list was given

    def update(self, run: Run, lr: Array) -> None:
        """Update neighbouring parameters, in a call each."""
        decay = self.weight_decay * run.decay
        for one in each(run):
            shape, biases = self.flat.shapes[one.first], self.biases(run)
            w, g, mean, square = self.operands(one, *self.slot_names())
            if len(shape) > 1:
                rows, columns = matrix_of(shape)
                layerwise.muon(
                    *(x.view(0, shape) for x in (w, g, mean)),
                    lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    weight_decay=decay,
                    ns_coefficients=self.ns_coefficients,
                    ns_steps=self.ns_steps,
                    eps=self.eps,
                    scale=self.SCALES[self.adjust_lr_fn or "original"](rows, columns),
                )
            else:
                moments.adam(
                    w, g, mean, square, self.unused, self.unused, lr, *biases,
                    betas=self.betas, eps=self.eps, weight_decay=decay, decoupled=True,
                    amsgrad=False,
                )  # fmt: skip


class Muon(Optimizer):
    """Momentum whose steps are orthogonal matrices (Jordan et al. 2024), for matrices and, with a
    filter as a row, for filter banks; AdamW with `betas` and `eps` for parameters with one axis.

        exp_avg = exp_avg + (1 - momentum) (grad - exp_avg)
        d = grad + momentum (exp_avg - grad)  with nesterov, else d = exp_avg
        w = w (1 - lr weight_decay) - lr scale orthogonal(d)  by `ns_steps` of Newton-Schulz

    The scale of a matrix (a, b) is sqrt(max(1, a / b)); with `adjust_lr_fn` "match_rms_adamw" it is
    0.2 sqrt(max(a, b)), so that AdamW's `lr` fits (Liu et al. 2025). Other than torch's, steps are
    computed in the type of the weights, not in bfloat16. Parameters and errors are those of
    `Optimizer`; ValueError also for other than three `ns_coefficients`."""

    group = MuonGroup
    slots = ("exp_avg", "exp_avg_sq")
    elementwise = False

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: Coefficients = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn, "betas": betas,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters, **options)


def each(run: Run) -> Iterable[Run]:
    """Yield a run for each of its parameters."""
    return (run._replace(first=i, last=i) for i in range(run.first, run.last + 1))
