"""Dropout layers (Srivastava et al. 2014). `inplace` is accepted without effect.

In evaluation they return their input. ValueError for a p outside [0, 1]."""

from __future__ import annotations

from ..functional.dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from ..tensor import Tensor
from .module import Module

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
]


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


class Dropout1d(_Dropout):
    """`Dropout2d` of signals."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, L)."""
        return dropout1d(x, self.p, self.training)


class Dropout3d(_Dropout):
    """`Dropout2d` of volumes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, D, H, W)."""
        return dropout3d(x, self.p, self.training)


class AlphaDropout(_Dropout):
    """Sets elements to the lowest value of selu with probability p in training, and keeps mean and
    variance (Klambauer et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return alpha_dropout(x, self.p, self.training)


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, ..)."""
        return feature_alpha_dropout(x, self.p, self.training)
