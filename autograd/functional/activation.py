"""Activation functions, with torch.nn.functional's names and argument order.

All but softmax work element by element and return the input's shape and type. TypeError for tensors
that are not floating-point."""

from __future__ import annotations

from ..ops import activation as ops
from ..ops import elementwise as el
from ..ops.reduce import scale
from ..ops.shape import axis_of
from ..tensor import Tensor

__all__ = ["elu", "leaky_relu", "log_softmax", "relu", "sigmoid", "softmax", "softplus", "tanh"]


def relu(input: Tensor) -> Tensor:
    """Return max(x, 0); its gradient at 0 is 0."""
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
    """Return 1 / (1 + e^-x).

    For the logarithm of a sigmoid use `binary_cross_entropy_with_logits`, which stays finite."""
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
    """Return e^x divided by its sum along the axis `dim`.

    The result sums to 1 along that axis. x is shifted by its maximum, so it never overflows.
    ValueError for an axis that does not exist."""
    y: Tensor = ops.softmax(input, axis=axis_of("softmax", dim, input.ndim))
    return y


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Return the logarithm of softmax along the axis `dim`, without its loss of small
    probabilities.

    ValueError for an axis that does not exist."""
    y: Tensor = ops.log_softmax(input, axis=axis_of("log_softmax", dim, input.ndim))
    return y
