"""Fully connected layers and matrix products."""

from __future__ import annotations

from math import prod

from ..ops import linear as ops
from ..ops.elementwise import add
from ..ops.shape import permute, reshape
from ..tensor import Tensor

__all__ = ["bilinear", "linear", "matmul"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias.

    Input is (.., C), weight (M, C), bias (M,), the result (.., M). ValueError where shapes do not
    fit."""
    return ops.linear(input, weight, *(() if bias is None else (bias,)))


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product with NumPy's rules: (.., a, b) @ (.., b, c), stacks broadcast.

    A vector counts as a row on the left and as a column on the right. ValueError where shapes do
    not fit, and for numbers without axes."""
    return ops.product(input, other)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y[.., o] = the sum over i, j of input1[.., i] weight[o, i, j] input2[.., j], plus
    bias[o].

    ValueError where shapes do not fit."""
    lead = input1.shape[:-1]
    fits = input1.ndim and input2.ndim and input2.shape[:-1] == lead
    if not fits or weight.shape[1:] != (input1.shape[-1], input2.shape[-1]):
        raise ValueError(
            "bilinear: expected inputs (.., I) and (.., J) and weight (O, I, J), got "
            f"{input1.shape}, {input2.shape} and {weight.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bilinear: expected a bias of shape {weight.shape[:1]}, got {bias.shape}")
    (o, i, j), rows = weight.shape, prod(lead)
    filters = reshape(permute(weight, axes=(1, 0, 2)), shape=(i, o * j))
    inner = ops.matmul(reshape(input1, shape=(rows, i)), filters)
    columns = reshape(input2, shape=(rows, j, 1))
    y = ops.matmul(reshape(inner, shape=(rows, o, j)), columns)
    y = reshape(y, shape=(*lead, o))
    return y if bias is None else add(y, bias)
