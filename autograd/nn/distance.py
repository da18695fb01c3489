"""Distances, similarities and losses of margins as layers, with torch's arguments.

See the functions of `functional.distance`; `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from collections.abc import Callable

from ..functional import distance as F
from ..tensor import Tensor
from .loss import Loss
from .module import Module

__all__ = [
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiMarginLoss",
    "PairwiseDistance",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along the axis `dim`."""

    shown = ("dim", "eps")

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return the broadcast shape without the axis."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps along the last axis."""

    shown = ("p", "eps", "keepdim")

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return (N,), or (N, 1) with keepdim."""
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)


class _Margin(Loss):
    shown = ("margin", "reduction")

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)


class HingeEmbeddingLoss(_Margin):
    """Distances whose target is 1, and what lacks the others to the margin."""

    function = staticmethod(F.hinge_embedding_loss)

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(margin, reduction)


class MarginRankingLoss(_Margin):
    """What input1 lacks to exceed input2 by the margin; with target -1, the other way round."""

    function = staticmethod(F.margin_ranking_loss)


class CosineEmbeddingLoss(_Margin):
    """1 - cosine of vectors whose target is 1, and what exceeds the margin in that of others."""

    function = staticmethod(F.cosine_embedding_loss)


class TripletMarginLoss(Loss):
    """What the negative lacks to be further from the anchor than the positive by the margin."""

    shown = ("margin", "p", "eps", "swap", "reduction")
    function = staticmethod(F.triplet_margin_loss)

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction, margin=margin, p=p, eps=eps, swap=swap)


class TripletMarginWithDistanceLoss(Loss):
    """`TripletMarginLoss` with a distance of one's own, a function of two tensors."""

    shown = ("distance_function", "margin", "swap", "reduction")
    function = staticmethod(F.triplet_margin_with_distance_loss)

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction, margin=margin, swap=swap)
        self.distance_function = distance_function


class MultiLabelMarginLoss(Loss):
    """What the scores of each of several labels lack to exceed those of other classes by 1."""

    function = staticmethod(F.multilabel_margin_loss)


class MultiMarginLoss(Loss):
    """What the scores of labels lack to exceed those of other classes by the margin."""

    shown = ("p", "margin", "reduction")

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.p, self.margin, self.weight = p, margin, weight
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return a number, or (N,) for "none"."""
        options = self.p, self.margin, self.weight, self.reduction
        return F.multi_margin_loss(input, target, *options)
