"""Activation functions."""

from __future__ import annotations

from ..ops import activation as ops
from ..ops import elementwise as el
from ..ops.reduce import scale
from ..ops.shape import axis_of
from ..tensor import Tensor

__all__ = ["elu", "leaky_relu", "log_softmax", "relu", "sigmoid", "softmax", "softplus", "tanh"]


def relu(input: Tensor) -> Tensor:
    """Return max(x, 0)."""
    y: Tensor = ops.relu(input)
    return y


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x where x > 0, else negative_slope x (Maas et al. 2013)."""
    slope = float(negative_slope)
    y: Tensor
    if slope >= 0:
        y = ops.leaky_relu(input, slope=slope)
    else:
        y = el.where(input > 0, input, scale(input, factor=slope))
    return y


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x where x > 0, else alpha (e^x - 1) (Clevert et al. 2016)."""
    y: Tensor = ops.elu(input, alpha=float(alpha))
    return y


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x)."""
    y: Tensor = ops.sigmoid(input)
    return y


def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    y: Tensor = ops.tanh(input)
    return y


def softplus(input: Tensor) -> Tensor:
    """Return log(1 + e^x), a smooth max(x, 0)."""
    y: Tensor = ops.softplus(input)
    return y


def softmax(input: Tensor, dim: int) -> Tensor:
    """Return e^x divided by its sum along an axis. ValueError for an axis that is not there."""
    y: Tensor = ops.softmax(input, axis=axis_of("softmax", dim, input.ndim))
    return y


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Return the logarithm of softmax along an axis, without its loss of small probabilities."""
    y: Tensor = ops.log_softmax(input, axis=axis_of("log_softmax", dim, input.ndim))
    return y
