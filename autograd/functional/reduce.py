"""Reductions along axes, with torch's names."""

from __future__ import annotations

from math import inf

from ..operators import Axis
from ..ops import elementwise as el
from ..tensor import Tensor
from .arrange import where

__all__ = ["norm"]


def norm(input: Tensor, p: float | str = "fro", dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Return the p-norm over axes, all of them for None: (the sum of |x|^p)^(1/p).

    p = inf gives the largest |x|, -inf the smallest, 0 the number of elements that are not 0; "fro"
    is 2. The gradient is 0 where the norm is. ValueError for another name and axes that do not
    exist."""
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"norm: expected p to be a number or 'fro', got {p!r}")
    order = 2.0 if isinstance(p, str) else float(p)
    if order == 2:
        return el.deviation((input * input).sum(dim, keepdim))
    far = input.abs()
    if order in (inf, -inf):
        return far.max(dim, keepdim) if order > 0 else far.min(dim, keepdim)
    if order == 0:
        return (far > 0).astype(input.dtype).sum(dim, keepdim)
    if order == 1:
        return far.sum(dim, keepdim)
    total = (far**order).sum(dim, keepdim)
    # The root has an infinite slope at 0, which must not meet a slope of 0.
    nothing = total <= 0
    return where(nothing, total, where(nothing, 1.0, total) ** (1 / order))
