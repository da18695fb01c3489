"""Distances and similarities of vectors, and losses that ask for a margin.

Names and argument order are torch.nn.functional's; `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..array import array
from ..autocast import wide
from ..dtypes import is_integer
from ..methods.reducing import norm
from ..ops import compare as cp
from ..ops import elementwise as el
from ..tensor import Tensor
from .arrange import minimum, where
from .loss import check, reduced, tensors

__all__ = [
    "cdist",
    "cosine_embedding_loss",
    "cosine_similarity",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "pairwise_distance",
    "pdist",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norms (.., P, R) of the differences of all rows (.., P, M) and (.., R, M).

    All differences are in memory at once."""
    if len(x1.shape) < 2 or len(x2.shape) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ValueError(f"cdist: expected (.., P, M) and (.., R, M), got {x1.shape}, {x2.shape}")
    return norm(wide(x1).unsqueeze(-2) - wide(x2).unsqueeze(-3), p, -1)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norms of the differences of all pairs of rows (N, M), those of the first row
    first: (N (N - 1) / 2,).

    ValueError for another number of axes."""
    if input.ndim != 2:
        raise ValueError(f"pdist: expected (N, M), got {input.shape}")
    x = wide(input)
    first, second = np.triu_indices(len(x), 1)
    return norm(x[first] - x[second], p, -1)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between vectors along an axis, of tensors that are broadcast.

    Norms count as eps where they are smaller. ValueError for an axis that does not exist and
    shapes that do not broadcast."""
    tensors("cosine_similarity", x1=x1, x2=x2)
    x, y = wide(x1), wide(x2)
    whole = x * y
    lengths = [norm(v.expand(whole.shape), 2.0, dim).clamp(min=eps) for v in (x, y)]
    return whole.sum(dim) / (lengths[0] * lengths[1])


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Return the p-norm of x1 - x2 + eps along the last axis; x1 and x2 are broadcast."""
    tensors("pairwise_distance", x1=x1, x2=x2)
    return norm(wide(x1) - wide(x2) + eps, p, -1, keepdim)


def _above(x: Tensor) -> Tensor:
    """Return max(x, 0), with slope 1 at 0, as torch has it in these losses."""
    return el.clip(x, low=0.0, high=None)


def _signs(name: str, target: Tensor, shape: tuple[int, ...], reduction: str) -> None:
    """ValueError for an unknown reduction, and for signs of another shape than the losses."""
    tensors(name, target=target)
    check(name, reduction, target)
    if target.shape != shape:
        raise ValueError(f"{name}: expected a target of shape {shape}, got {target.shape}")


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Return distances whose target is 1, and max(margin - distance, 0) where it is -1.

    ValueError for shapes that differ."""
    tensors("hinge_embedding_loss", input=input)
    _signs("hinge_embedding_loss", target, input.shape, reduction)
    x = wide(input)
    loss = where(target == -1, 0.0, x) + where(target == 1, 0.0, _above(margin - x))
    return reduced(loss, reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return max(margin - target (input1 - input2), 0): 0 where input1 exceeds input2, or with
    target -1 falls short of it, by the margin."""
    tensors("margin_ranking_loss", input1=input1, input2=input2, target=target)
    check("margin_ranking_loss", reduction, input1)
    return reduced(_above(margin - target * (wide(input1) - wide(input2))), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return 1 - cosine of vectors (N, D) whose target (N,) is 1, and max(cosine - margin, 0) where
    it is -1.

    Also of single vectors (D,). ValueError for shapes that do not fit."""
    tensors("cosine_embedding_loss", input1=input1, input2=input2, target=target)
    _signs("cosine_embedding_loss", target, input1.shape[:-1], reduction)
    x, y = wide(input1), wide(input2)
    squares = [(v * v).sum(-1) + 1e-12 for v in (x, y)]
    cosine = (x * y).sum(-1) / (squares[0] * squares[1]).sqrt()
    away = where(target == -1, _above(cosine - margin), 0.0)
    return reduced(where(target == 1, 1.0 - cosine, away), reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return max(margin + d(anchor, positive) - d(anchor, negative), 0), d being
    `pairwise_distance`.

    With `swap`, d(positive, negative) counts where it is smaller than d(anchor, negative) (Balntas
    et al. 2016)."""
    tensors("triplet_margin_loss", anchor=anchor, positive=positive, negative=negative)
    check("triplet_margin_loss", reduction, anchor)
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda x, y: pairwise_distance(x, y, p, eps),
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return `triplet_margin_loss` with another distance than `pairwise_distance`."""
    name = "triplet_margin_with_distance_loss"
    tensors(name, anchor=anchor, positive=positive, negative=negative)
    check(name, reduction, anchor)
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = (distance(anchor, x) for x in (positive, negative))
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(_above(margin + near - far), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the sum over other classes of max(margin - x[label] + x[class], 0)^p, over C (Crammer
    and Singer 2001).

    Scores are (N, C) or (C,), labels (N,) or (); `weight` (C,) weighs the labels. ValueError for p
    other than 1 and 2 and shapes that do not fit."""
    check("multi_margin_loss", reduction, input)
    tensors("multi_margin_loss", target=target)
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: expected p of 1 or 2, got {p}")
    if not is_integer(target.dtype) or target.shape != input.shape[:-1] or not input.ndim:
        raise ValueError(
            f"multi_margin_loss: expected integer labels {input.shape[:-1]} for input "
            f"{input.shape}, got {target.dtype} {target.shape}"
        )
    x = wide(input)
    is_label = cp.eq(target.unsqueeze(-1), array(np.arange(x.shape[-1])))
    gap = _above(margin - where(is_label, x, 0.0).sum(-1, keepdim=True) + x)
    loss = where(is_label, 0.0, gap if p == 1 else gap * gap).mean(-1)
    return reduced(loss if weight is None else loss * weight[target], reduction)


def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the sum of max(1 - x[label] + x[class], 0) / C over all labels and, for each, all
    classes that are no labels.

    Scores are (N, C) or (C,); `target` has their shape: labels up to the first -1. ValueError for
    shapes that differ and targets that are no integers, IndexError for labels out of range."""
    check("multilabel_margin_loss", reduction, input)
    tensors("multilabel_margin_loss", target=target)
    if not is_integer(target.dtype) or target.shape != input.shape or not input.ndim:
        raise ValueError(
            f"multilabel_margin_loss: expected integer labels {input.shape}, got {target.dtype} "
            f"{target.shape}"
        )
    x = wide(input)
    given = cp.eq(cp.eq(target, -1).cumsum(-1), 0)
    label = where(given, target, 0)
    chosen = cp.eq(label.unsqueeze(-1), array(np.arange(x.shape[-1]))) & given.unsqueeze(-1)
    other = ~chosen.any(-2, keepdim=True)
    gap = _above(1 - x.gather(-1, label).unsqueeze(-1) + x.unsqueeze(-2))
    loss = where(given.unsqueeze(-1) & other, gap, 0.0).sum((-2, -1)) / max(x.shape[-1], 1)
    return reduced(loss, reduction)
