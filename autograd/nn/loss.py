"""Losses as layers, with torch's arguments.

`reduction` is "mean", "sum" or "none"; ValueError for another."""

from __future__ import annotations

from ..functional import loss as F
from ..tensor import Tensor
from .module import Module

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss", "NLLLoss"]


class _Loss(Module):
    shown = ("reduction",)

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in F.REDUCTIONS:
            name = type(self).__name__
            raise ValueError(f"{name}: expected reduction in {F.REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction


class CrossEntropyLoss(_Loss):
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


class NLLLoss(_Loss):
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


class MSELoss(_Loss):
    """Squared differences of input and target, which have one shape."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or the shape of input for "none"."""
        return F.mse_loss(input, target, reduction=self.reduction)


class BCELoss(_Loss):
    """Binary cross entropy of probabilities with targets in [0, 1], times `weight`.

    For logits use BCEWithLogitsLoss, which is exact for large ones."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = weight
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or the shape of input for "none"."""
        return F.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Loss):
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
