"""Fully connected layers and matrix products."""

from __future__ import annotations

from ..ops import linear as ops
from ..tensor import Tensor

__all__ = ["linear", "matmul"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias; input (.., C), weight (M, C), bias (M,), result (.., M)."""
    return ops.linear(input, weight, *(() if bias is None else (bias,)))


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product with NumPy's rules: (.., a, b) @ (.., b, c), vectors as rows or
    columns, stacks broadcast."""
    return ops.product(input, other)
