"""Rows for products and parts of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...functional.create import meshgrid
from ...functional.distance import cdist
from ...functional.einsum import einsum, tensordot
from ...methods import algebra
from .sample import Sample, normal

MATRIX, VECTOR, PAIR = normal(3, 4), normal(4), (normal(2, 3, 4), normal(2, 4, 5))


def _alike(name: str, function: Callable[..., Any], inputs: tuple[Any, ...], **more: Any) -> Sample:
    """Return a row of a function of a module, ours or torch's, and tensors."""
    return Sample(
        name, lambda *xs: function(algebra, *xs), inputs, lambda t, *xs: function(t, *xs), **more
    )


def _einsum(equation: str, *shapes: tuple[int, ...], macs: int = 0, wrong: Any = ()) -> Sample:
    return Sample(
        f"einsum/{equation}",
        lambda *xs: einsum(equation, *xs),
        tuple(normal(*shape) for shape in shapes),
        lambda t, *xs: t.einsum(equation, *xs),
        macs=macs,
        wrong=wrong,
    )


PAIR_OF_STACKS = normal(2, 3, 4), normal(4, 2, 2)
STACKS = (("bmm: expected (n, a, b) and (n, b, c), got ", ((2, 3, 4), (1, 4, 5))),)
EXTENTS = (("expected one extent of 'j' in 'ij,jk', got 3 and 4", ((2, 3), (4, 2))),)
AXES = (("expected 2 axes for 'ij' of 'ij,jk', got 3", ((2, 3, 1), (3, 2))),)
ROWS = [
    _alike("mm", lambda t, x, w: t.mm(x, w), (MATRIX, normal(4, 2)), macs=3 * 4 * 2),
    _alike("bmm", lambda t, x, w: t.bmm(x, w), PAIR, macs=2 * 3 * 4 * 5, wrong=STACKS),
    _alike("dot", lambda t, x, w: t.dot(x, w), (VECTOR, VECTOR), macs=4),
    _alike("outer", lambda t, x, w: t.outer(x, w), (VECTOR, normal(3))),
    _alike(
        "addmm",
        lambda t, b, x, w: t.addmm(b, x, w, beta=0.5, alpha=2),
        (normal(2), MATRIX, normal(4, 2)),
        macs=3 * 4 * 2,
    ),
    _alike("baddbmm", lambda t, b, *xs: t.baddbmm(b, *xs), (normal(3, 1), *PAIR), macs=120),
    _alike("triangles", lambda t, x: t.tril(x, 1) * 2 - t.triu(x, -1), (normal(2, 3, 4),)),
    _alike("diag", lambda t, x: t.diag(x, 1) + t.diag(x, -1), (normal(3),)),
    _alike("diag/of a matrix", lambda t, x: t.diag(x, -1) * t.diag(x), (normal(4, 3),)),
    _alike(
        "cross",
        lambda t, x, w: t.cross(x, w, 0) + x.cross(w, -1),
        (normal(3, 3), normal(3, 3)),
        wrong=(("cross: expected an axis of extent 3, got ", ((2, 4), (2, 4))),),
    ),
    Sample(
        "tensordot",
        lambda x, w: tensordot(x, w, ([0, 2], [2, 0])),
        PAIR_OF_STACKS,
        lambda t, x, w: t.tensordot(x, w, ([0, 2], [2, 0])),
        macs=3 * 4 * 2 * 2,
        wrong=(("tensordot: expected equal extents over ", ((2, 3, 4), (2, 4, 3))),),
    ),
    Sample(
        "cdist",
        cdist,
        (normal(2, 3, 4), normal(2, 2, 4)),
        lambda t, x, w: t.cdist(x, w),
        wrong=(("cdist: expected (.., P, M) and (.., R, M), got ", ((2, 4), (2, 3))),),
    ),
    _alike("diagonal", lambda t, x: t.diagonal(x, 1, 2, 0), (normal(3, 2, 4),)),
    Sample(
        "meshgrid",
        lambda x, w: meshgrid(x, w, indexing="xy"),
        (VECTOR, normal(3)),
        lambda t, x, w: [*t.meshgrid(x, w, indexing="xy")],
    ),
    _einsum("ij,jk", (2, 3), (3, 2), macs=12, wrong=EXTENTS + AXES),
    _einsum("bij,bkj->bik", (2, 3, 4), (2, 5, 4), macs=120),
    _einsum("...ij, jk -> ...ki", (2, 2, 3, 4), (4, 2), macs=4 * 3 * 4 * 2),
    _einsum("...i,...i->...", (2, 3, 4), (1, 4), macs=2 * 3 * 4),
    _einsum("i,j,k->kij", (2,), (3,), (2,)),
    _einsum("ij,jk,kl->il", (2, 3), (3, 4), (4, 2), macs=2 * 3 * 4 + 2 * 4 * 2),
    _einsum("iij->ji", (3, 3, 2)),
    _einsum("ij,kj->k", (2, 3), (4, 3), macs=4 * 3),
    _einsum("bi,bi,b->b", (2, 3), (2, 3), (2,), macs=6),
]
