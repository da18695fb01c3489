"""Activation functions as layers, with torch's arguments.

`inplace` is accepted without effect: what is saved for the gradient is never overwritten."""

from __future__ import annotations

from ..functional import activation as F
from ..tensor import Tensor
from .module import Module

__all__ = ["ELU", "LeakyReLU", "LogSoftmax", "ReLU", "Sigmoid", "Softmax", "Softplus", "Tanh"]


class ReLU(Module):
    """max(x, 0), element by element."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.relu(x)


class LeakyReLU(Module):
    """x where it is positive, else negative_slope x (Maas et al. 2013)."""

    shown = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x where it is positive, else alpha (exp(x) - 1) (Clevert et al. 2016)."""

    shown = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.elu(x, self.alpha)


class Softplus(Module):
    """log(1 + exp(x)), a smooth max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.softplus(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.tanh(x)


class Softmax(Module):
    """exp(x) divided by its sum along the axis `dim`.

    `CrossEntropyLoss` takes logits: put no softmax in front of it."""

    shown = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.softmax(x, self.dim)


class LogSoftmax(Module):
    """The logarithm of softmax along the axis `dim`, the input that `NLLLoss` expects."""

    shown = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.log_softmax(x, self.dim)
