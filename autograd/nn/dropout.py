"""Dropout layers (Srivastava et al. 2014). `inplace` is accepted without effect.

In evaluation they return their input. ValueError for a p outside [0, 1]."""

from __future__ import annotations

from ..functional.dropout import dropout, dropout2d
from ..tensor import Tensor
from .module import Module

__all__ = ["Dropout", "Dropout2d"]


class _Dropout(Module):
    shown = ("p",)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: expected p in [0, 1], got {p}")
        self.p, self.inplace = p, inplace


class Dropout(_Dropout):
    """Zeros elements with probability p in training, and divides the others by 1 - p."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return dropout(x, self.p, self.training)


class Dropout2d(_Dropout):
    """Zeros whole channels with probability p in training, and divides the others by 1 - p."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, H, W)."""
        return dropout2d(x, self.p, self.training)
