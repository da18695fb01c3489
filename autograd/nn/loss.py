"""Losses as layers, with torch's arguments.

`reduction` is "mean", "sum" or "none"; ValueError for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..functional import loss as F
from ..tensor import Tensor
from .module import Module

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MultiLabelSoftMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
]


class Loss(Module):
    """A function of tensors, and of the attributes in `shown`.

    ValueError for a reduction that is not in `reductions`."""

    shown: tuple[str, ...] = ("reduction",)
    reductions: tuple[str, ...] = F.REDUCTIONS
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, reduction: str = "mean", **options: Any) -> None:
        if reduction not in self.reductions:
            name = type(self).__name__
            raise ValueError(f"{name}: expected reduction in {self.reductions}, got {reduction!r}")
        self.reduction = reduction
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return a number, or the loss of each sample for "none"."""
        options = {name: getattr(self, name) for name in self.shown}
        return type(self).function(*inputs, **named, **options)


class CrossEntropyLoss(Loss):
    """Cross entropy of logits (N, C, ..) with integer labels (N, ..) or class probabilities.

    `weight` (C,) weighs the classes, labels equal to ignore_index do not count, and label_smoothing
    mixes a uniform distribution into the labels. See `functional.loss.cross_entropy`."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = weight
        self.register_buffer("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or (N, ..) for "none"."""
        return F.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(Loss):
    """Negative log-likelihood of integer labels (N, ..) under log-probabilities (N, C, ..).

    Options are those of CrossEntropyLoss; the input is what LogSoftmax returns."""

    def __init__(
        self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.weight = weight
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or (N, ..) for "none"."""
        return F.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class MSELoss(Loss):
    """Squared differences of input and target, which have one shape."""

    function = staticmethod(F.mse_loss)


class L1Loss(Loss):
    """Absolute differences of input and target, which have one shape."""

    function = staticmethod(F.l1_loss)


class HuberLoss(Loss):
    """Half of the squared differences up to delta, straight beyond (Huber 1964)."""

    shown = ("reduction", "delta")
    function = staticmethod(F.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction, delta=delta)


class SmoothL1Loss(Loss):
    """`HuberLoss` with delta beta, divided by beta."""

    shown = ("reduction", "beta")
    function = staticmethod(F.smooth_l1_loss)

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction, beta=beta)


class KLDivLoss(Loss):
    """The divergence of log-probabilities from probabilities, see `functional.loss.kl_div`."""

    shown = ("reduction", "log_target")
    reductions = (*F.REDUCTIONS, "batchmean")
    function = staticmethod(F.kl_div)

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction, log_target=log_target)


class GaussianNLLLoss(Loss):
    """Negative log-likelihood of targets under normal distributions: input, target, variance.

    See `functional.loss.gaussian_nll_loss`."""

    shown = ("full", "eps", "reduction")
    function = staticmethod(F.gaussian_nll_loss)

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction, full=full, eps=eps)


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts, see `functional.loss.poisson_nll_loss`."""

    shown = ("log_input", "full", "eps", "reduction")
    function = staticmethod(F.poisson_nll_loss)

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction, log_input=log_input, full=full, eps=eps)


class SoftMarginLoss(Loss):
    """log(1 + exp(- target input)), targets being 1 or -1."""

    function = staticmethod(F.soft_margin_loss)


class MultiLabelSoftMarginLoss(Loss):
    """The mean over classes of the binary cross entropy of sigmoid(logits), times `weight`."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = weight
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or a loss of each sample for "none"."""
        return F.multilabel_soft_margin_loss(input, target, self.weight, self.reduction)


class CTCLoss(Loss):
    """Connectionist temporal classification, see `functional.loss.ctc_loss`."""

    shown = ("blank", "reduction", "zero_infinity")
    function = staticmethod(F.ctc_loss)

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(reduction, blank=blank, zero_infinity=zero_infinity)


class BCELoss(Loss):
    """Binary cross entropy of probabilities with targets in [0, 1], times `weight`.

    For logits use BCEWithLogitsLoss, which is exact for large ones."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = weight
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or the shape of input for "none"."""
        return F.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(Loss):
    """Binary cross entropy of sigmoid(logits) with targets in [0, 1], times `weight`.

    `pos_weight` multiplies the part of the positive targets."""

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction)
        self.weight, self.pos_weight = weight, pos_weight
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or the shape of input for "none"."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, self.reduction, self.pos_weight
        )
