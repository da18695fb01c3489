"""Initialisers, with torch's names. Each overwrites a tensor and returns it.

The fans of a weight (M, C/groups, ..) are fan_in = C/groups x window and fan_out = M x window. On
the meta backend nothing is drawn."""

from __future__ import annotations

from math import prod, sqrt
from typing import Literal

import numpy as np

from .. import random
from ..array import Array, array
from ..suggest import unknown
from ..tensor import Tensor
from .module import assign

Fan = Literal["fan_in", "fan_out"]
_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": sqrt(2.0), "selu": 0.75}


def calculate_gain(nonlinearity: str, param: float = 0.01) -> float:
    """Return the factor that keeps the variance of activations through a nonlinearity.

    `param` is the slope of "leaky_relu". ValueError for an unknown name."""
    if nonlinearity == "leaky_relu":
        return sqrt(2.0 / (1.0 + param**2))
    if nonlinearity not in _GAINS:
        raise unknown("nonlinearity", nonlinearity, [*_GAINS, "leaky_relu"])
    return _GAINS[nonlinearity]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight. ValueError for fewer than two axes."""
    if len(shape) < 2:
        raise ValueError(
            f"fan_in, fan_out: expected a weight of at least 2 axes, got shape {shape}"
        )
    window = prod(shape[2:])
    return shape[1] * window, shape[0] * window


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Draw uniformly from [a, b)."""
    return _write(tensor, random.draw("uniform", tensor.shape, a, b, tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Draw from the normal distribution of deviation `std` around `mean`."""
    return _write(tensor, random.draw("normal", tensor.shape, mean, std, tensor.dtype))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Draw from the normal distribution within [a, b], again where a number is outside.

    ValueError for bounds more than 2 deviations from the mean on one side, in which few are."""
    if not (a < b and a < mean + 2 * std and b > mean - 2 * std):
        raise ValueError(
            f"trunc_normal_: expected bounds near {mean} +- {2 * std}, got {a} and {b}"
        )
    drawn = random.draw("normal", tensor.shape, mean, std, tensor.dtype)
    if drawn.has_numbers:
        numbers = drawn.value
        while (outside := (numbers < a) | (numbers > b)).any():
            count = int(np.count_nonzero(outside))
            again = random.draw("normal", (count,), mean, std, tensor.dtype)
            numbers[outside] = again.value
    return _write(tensor, drawn)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Write one value everywhere."""
    return _write(tensor, array(val, tensor.dtype))


def zeros_(tensor: Tensor) -> Tensor:
    """Write zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Write ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw uniformly with deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * sqrt(6.0 / sum(fans(tensor.shape)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw normally with deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * sqrt(2.0 / sum(fans(tensor.shape))))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: Fan = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw uniformly with deviation gain / sqrt(fan) (He et al. 2015).

    `mode` selects fan_in, which keeps the variance of activations, or fan_out, which keeps that of
    gradients; `a` is the slope of "leaky_relu". ValueError for an unknown mode or nonlinearity."""
    bound = sqrt(3.0) * _deviation(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: Fan = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw from a normal distribution with deviation gain / sqrt(fan) (He et al. 2015).

    Options and errors are those of `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _deviation(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Make the rows of the weight as a matrix (M, rest) orthogonal and of length gain (Saxe et al.
    2013).

    If there are fewer columns than rows, the columns are."""
    fans(tensor.shape)
    rows = tensor.shape[0]
    shape = (rows, prod(tensor.shape[1:]))
    # Q of a normal matrix is uniformly distributed once the signs of R's diagonal are fixed.
    drawn = random.draw("normal", (max(shape), min(shape)), 0.0, 1.0, np.float64)
    if not drawn.has_numbers:
        return tensor
    q, r = np.linalg.qr(drawn.value)
    q = q * np.sign(np.diagonal(r))  # or the directions would not be evenly distributed
    q = gain * (q.T if shape[0] < shape[1] else q)
    return _write(tensor, array(q.reshape(tensor.shape), tensor.dtype))


def eye_(tensor: Tensor) -> Tensor:
    """Write the identity into a matrix. ValueError for other numbers of axes."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _write(tensor, array(np.eye(*tensor.shape, dtype=tensor.dtype)))


def dirac_(tensor: Tensor) -> Tensor:
    """Write filters (M, C, R, ..) of which the first C pass one channel each on; others are zero.
    ValueError for fewer than three axes."""
    if len(tensor.shape) < 3:
        raise ValueError(f"dirac_: expected filters of at least 3 axes, got shape {tensor.shape}")
    numbers, index = np.zeros(tensor.shape, tensor.dtype), np.arange(min(tensor.shape[:2]))
    window = tensor.shape[2:]
    middle = np.ravel_multi_index([n // 2 for n in window], window)
    numbers.reshape(*tensor.shape[:2], -1)[index, index, middle] = 1
    return _write(tensor, array(numbers))


def whiten_(tensor: Tensor, images: Tensor, eps: float = 5e-4) -> Tensor:
    """Write filters (M, C, R, S) that whiten the patches of images (N, C, H, W): the directions of
    most variance, each over its deviation, then their negatives, as far as there are filters
    (Coates and Ng 2012; Jordan 2024). `eps` is added to the variances.

    ValueError for images of other channels or smaller than a patch, and for more than 2 C R S
    filters."""
    (count, *patch), pixels = tensor.shape, images.numpy()
    size = prod(patch)
    fits = pixels.ndim == 4 and pixels.shape[1] == patch[0]
    if not fits or pixels.shape[2] < patch[1] or pixels.shape[3] < patch[2]:
        raise ValueError(f"whiten_: expected images with patches {patch}, got {pixels.shape}")
    if count > 2 * size:
        raise ValueError(f"whiten_: expected at most {2 * size} filters, got {count}")
    windows = np.lib.stride_tricks.sliding_window_view(pixels, patch[1:], (2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, size).astype(np.float64)
    values, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / np.sqrt(values + eps)).T[::-1].reshape(size, *patch)
    numbers = np.concatenate([filters, -filters])[:count]
    return _write(tensor, array(numbers.astype(tensor.dtype)))


def _deviation(tensor: Tensor, a: float, mode: Fan, nonlinearity: str) -> float:
    fan = dict(zip(("fan_in", "fan_out"), fans(tensor.shape), strict=True))
    if mode not in fan:
        raise unknown("mode", mode, fan)
    return calculate_gain(nonlinearity, a) / sqrt(max(fan[mode], 1))


def _write(tensor: Tensor, numbers: Array) -> Tensor:
    assign(tensor, numbers)
    return tensor
