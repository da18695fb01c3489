"""The arithmetic of weight norm and spectral norm."""

from __future__ import annotations

from ... import context
from ...dtypes import DType
from ...functional.create import randn
from ...functional.norm import normalize
from ...methods.reducing import norm
from ...tensor import Tensor
from ..layers import ConvTranspose2d
from ..module import Module


def split(weight: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """Return the length and the direction of a weight."""
    with context.using(tape=None):
        return length(weight, dim), weight.clone()


def length(v: Tensor, dim: int | None) -> Tensor:
    """Return the 2-norm over all axes but `dim`, with extent 1 there; () for None."""
    if dim is None:
        return norm(v)
    kept = dim % v.ndim
    return norm(v, dim=tuple(a for a in range(v.ndim) if a != kept), keepdim=True)


def recomposed(g: Tensor, v: Tensor, dim: int | None) -> Tensor:
    """Return the weight of a length and a direction."""
    return v * (g / length(v, dim))


def rows_of(module: Module) -> int:
    """Return the axis of a weight's outputs."""
    return int(isinstance(module, ConvTranspose2d))


def matrix_of(weight: Tensor, dim: int) -> Tensor:
    """Return a weight as a matrix whose rows are an axis."""
    first = weight.movedim(dim, 0)
    return first.reshape(first.shape[0], -1)


def direction(size: int, dtype: DType, eps: float) -> Tensor:
    """Return a random vector of length 1."""
    return normalize(randn(size, dtype=dtype), dim=0, eps=eps)


def power_iteration(matrix: Tensor, u: Tensor, v: Tensor, eps: float) -> None:
    """Move the estimates of a matrix's first singular vectors, the right one v and then the left
    one u, in their memory."""
    with context.using(tape=None):
        v.copy_(normalize(matrix.detach().T @ u, dim=0, eps=eps))
        u.copy_(normalize(matrix.detach() @ v, dim=0, eps=eps))


def spectral(weight: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    """Return a weight divided by u W v."""
    # Copies: the next forward moves the vectors, which this one's gradient needs.
    u, v = u.detach().clone(), v.detach().clone()
    return weight / (u @ (matrix_of(weight, dim) @ v))
