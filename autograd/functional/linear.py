"""Fully connected layers and matrix products."""

from __future__ import annotations

from ..ops import linear as ops
from ..tensor import Tensor

__all__ = ["linear", "matmul"]


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
