"""Rows for norms, distances and losses of margins."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np

from ...functional import distance as fn
from ...functional.create import tensor
from ...methods.reducing import norm
from .sample import Sample, distinct, labels, normal

PAIR, TRIPLE = (normal(4, 5), normal(4, 5)), (normal(4, 5), normal(4, 5), normal(4, 5))
RATES = np.array([0.5, 2.0, 1.5, 0.25, 1.0])


def _signs(*shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda rng: rng.integers(0, 2, shape) * 2 - 1


def _alike(
    name: str, label: str, inputs: tuple[Any, ...], wrong: Any = (), **options: Any
) -> Sample:
    """Return a row of a function that torch has by the same name, with the same options."""
    function: Any = getattr(fn, name)
    return Sample(
        f"{name}/{label}",
        lambda *xs: function(*xs, **options),
        inputs,
        lambda t, *xs: getattr(t.nn.functional, name)(*xs, **options),
        wrong=wrong,
    )


def _norm(p: Any, dim: Any = None, keepdim: bool = False) -> Sample:
    return Sample(
        f"norm/{p}, {dim}",
        lambda x: norm(x, p, dim, keepdim),
        (distinct(2, 3, 4),),
        lambda t, x: x.norm(p, dim, keepdim),
    )


def _weighted(x: Any, target: Any) -> Any:
    return fn.multi_margin_loss(x, target, 2, 0.5, tensor(RATES, x.dtype))


def _taxi(x: Any, y: Any) -> Any:
    return (x - y).abs().sum(-1)


SEVERAL = np.array([[2, 0, -1, 1], [-1, 0, 1, 2], [3, 1, 0, 2]])
SHORT = (("expected a target of shape (4,), got (5,)", ((4, 5), (4, 5), (5,))),)
LABELS = (("expected integer labels (4,) for input (4, 5), got int64 (5,)", ((4, 5), (5,))),)
ROWS = [
    _norm(2.0, (0, 2), True),
    _norm(1.0, 1),
    _norm(3.0, -1),
    _norm(inf, 1),
    _norm(0, 1),
    _alike("cosine_similarity", "rows", PAIR),
    _alike("cosine_similarity", "broadcast", (normal(3, 4, 2), normal(4, 1)), dim=-2),
    _alike("pairwise_distance", "rows", PAIR),
    _alike("pairwise_distance", "p 3", (normal(2, 4, 5), normal(5)), p=3.0, keepdim=True),
    _alike(
        "hinge_embedding_loss", "mean", (distinct(4, 5), _signs(4, 5)),
        (("expected a target of shape (4, 5), got (4,)", ((4, 5), (4,))),),
    ),
    _alike("margin_ranking_loss", "mean", (normal(7), normal(7), _signs(7)), margin=0.3),
    _alike("cosine_embedding_loss", "mean", (*PAIR, _signs(4)), SHORT, margin=-0.2),
    _alike("cosine_embedding_loss", "one", (normal(5), normal(5), _signs()), reduction="none"),
    _alike("triplet_margin_loss", "mean", TRIPLE),
    _alike("triplet_margin_loss", "swap", TRIPLE, swap=True, reduction="none", p=3.0, margin=2.0),
    Sample(
        "triplet_margin_with_distance_loss",
        lambda *xs: fn.triplet_margin_with_distance_loss(*xs, distance_function=_taxi, swap=True),
        TRIPLE,
        lambda t, *xs: t.nn.functional.triplet_margin_with_distance_loss(
            *xs, distance_function=_taxi, swap=True
        ),
    ),
    Sample(
        "pdist", fn.pdist, (normal(4, 3),), lambda t, x: t.nn.functional.pdist(x),
        wrong=(("pdist: expected (N, M), got (4,)", ((4,),)),),
    ),
    _alike(
        "multilabel_margin_loss", "mean", (normal(3, 4), lambda rng: SEVERAL),
        (("expected integer labels (3, 4), got int64 (3,)", ((3, 4), (3,))),),
    ),
    _alike("multi_margin_loss", "mean", (normal(4, 5), labels(4, classes=5)), LABELS),
    _alike("multi_margin_loss", "one", (normal(5), labels(classes=5)), reduction="none"),
    Sample(
        "multi_margin_loss/squares, weights",
        _weighted,
        (normal(4, 5), labels(4, classes=5)),
        lambda t, x, target: t.nn.functional.multi_margin_loss(
            x, target, 2, 0.5, t.tensor(RATES, dtype=x.dtype)
        ),
    ),
]  # fmt: skip
