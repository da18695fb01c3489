"""Rows for what chooses, orders and rearranges elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import indexing as fn
from ...functional.create import tensor
from .sample import Sample, distinct, labels, normal

X = normal(3, 4)
FEW = labels(2, 3, classes=3)  # positions along the first axis, fewer than there are
MASK = np.array([[True, False, False, True]])


def _alike(name: str, function: Callable[..., Any], inputs: tuple[Any, ...], **more: Any) -> Sample:
    """Return a row whose method reads the same for our tensors and torch's."""
    return Sample(name, function, inputs, lambda t, *args: function(*args), **more)


ROWS = [
    Sample(
        "embedding",
        fn.embedding,
        (labels(2, 3, classes=4), normal(4, 5)),
        lambda t, ids, w: t.nn.functional.embedding(ids, w),
        wrong=(("embedding: expected a weight (rows, C), got shape (4,)", ((2,), (4,))),),
    ),
    Sample(
        "embedding_bag",
        lambda ids, w: fn.embedding_bag(ids, w, padding_idx=1),
        (labels(3, 3, classes=4), normal(4, 5)),
        lambda t, ids, w: t.nn.functional.embedding_bag(ids, w, padding_idx=1),
        wrong=(("of 2 axes, or of 1 and offsets, got shape (2,)", ((2,), (4, 5))),),
    ),
    Sample(
        "one_hot",
        lambda ids, w: fn.one_hot(ids, 4) * w,
        (labels(2, 3, classes=4), normal(4)),
        lambda t, ids, w: t.nn.functional.one_hot(ids, 4) * w,
    ),
    _alike(
        "gather",
        lambda x, i: x.gather(0, i),
        (X, FEW),
        wrong=(
            (
                "gather: expected positions of at most (3, 4) but for axis 0, got shape (2, 5)",
                ((3, 4), (2, 5)),
            ),
        ),
    ),
    _alike(
        "scatter",
        lambda x, w: x.scatter(1, x.argsort()[:, :3], w),
        (distinct(3, 4), normal(3, 3)),
        wrong=(
            (
                "scatter: expected an element for each position (3, 3), got (3, 2)",
                ((3, 4), (3, 2)),
            ),
        ),
    ),
    _alike("scatter/number", lambda x, i: x.scatter(0, i, 2.5), (X, FEW)),
    _alike(
        "scatter_add",
        lambda x, i, w: x.scatter_add(0, i, w),
        (X, FEW, normal(2, 3)),
        wrong=(
            (
                "scatter_sum: expected an element for each position (2, 3), got (1, 3)",
                ((3, 4), (2, 3), (1, 3)),
            ),
        ),
    ),
    _alike(
        "index_select",
        lambda x, i: x.index_select(1, i),
        (X, labels(5, classes=4)),
        wrong=(
            ("index_select: expected an index of one axis, got shape (2, 2)", ((3, 4), (2, 2))),
        ),
    ),
    _alike(
        "index_add",
        lambda x, i, w: x.index_add(0, i, w, alpha=0.5),
        (X, labels(5, classes=3), normal(5, 4)),
        wrong=(("index_add: expected a source of (2, 4), got (3, 4)", ((3, 4), (2,), (3, 4))),),
    ),
    Sample(
        "masked_fill",
        lambda x: x.masked_fill(tensor(MASK), -1.5),
        (X,),
        lambda t, x: x.masked_fill(t.tensor(MASK), -1.5),
    ),
    _alike("sort", lambda x: x.sort(0), (distinct(4, 3),)),
    _alike("argsort", lambda x: x.argsort(descending=True), (distinct(2, 4),)),
    _alike(
        "topk",
        lambda x: x.topk(2, 1, largest=False),
        (distinct(3, 4),),
        wrong=(("order: expected 0 to 1 elements along axis 1 of (3, 1), got 2", ((3, 1),)),),
    ),
    _alike("roll", lambda x: x.roll((1, -6), (0, -1)).roll(2), (X,)),
    _alike(
        "repeat_interleave",
        lambda x: x.repeat_interleave(2, 1),
        (X,),
    ),
    _alike(
        "repeat",
        lambda x: x.repeat(2, 1, 3),
        (X,),
        wrong=(
            (
                "repeat: expected 4 or more numbers of at least 0, got (2, 1, 3)",
                ((1, 1, 1, 1),),
            ),
        ),
    ),
    _alike("tile", lambda x: x.tile((2,)), (X,)),
    _alike(
        "unflatten",
        lambda x: x.unflatten(1, (2, -1)),
        (X,),
        wrong=(("reshape: expected 5 elements as in (5,), got (2, -1)", ((1, 5),)),),
    ),
    _alike("movedim", lambda x: x.movedim((0, 1), (2, 0)), (normal(2, 3, 4),)),
    _alike(
        "windows of an axis",
        lambda x: x.unfold(0, 2, 1).mT,
        (normal(3, 4),),
        wrong=(("unfold: expected a size in 1 to 1 and a step, got 2 and 1", ((1, 3),)),),
    ),
    _alike("swapaxes", lambda x: x.swapaxes(0, -1), (X,)),
]
