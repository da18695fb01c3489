"""Spikes of neurons."""

from __future__ import annotations

from ..ops import spike as ops
from ..tensor import Tensor

__all__ = ["spike"]


def spike(input: Tensor, slope: float = 10.0) -> Tensor:
    """Return 1 where x > 0, else 0, with the gradient of x / (1 + slope |x|), a surrogate (Zenke
    and Ganguli 2018).

    ValueError for a negative slope."""
    if not slope >= 0:
        raise ValueError(f"spike: expected a slope of at least 0, got {slope}")
    y: Tensor = ops.spike(input, slope=float(slope))
    return y
