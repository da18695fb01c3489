"""Weight norm and spectral norm as parametrizations; see `parametrize`."""

from __future__ import annotations

from typing import TypeVar

from ... import context
from ...tensor import Tensor
from ..module import Module
from .computed import parameter_of
from .normed import direction, matrix_of, power_iteration, recomposed, rows_of, spectral, split
from .parametrize import register_parametrization

__all__ = ["spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)
FIRST = 15  # power iterations at the start, as in torch


class _WeightNorm(Module):
    def __init__(self, dim: int | None) -> None:
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight of a length and a direction."""
        return recomposed(g, v, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the length and the direction of a weight."""
        return split(weight, self.dim)


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, count: int, eps: float, dim: int) -> None:
        self.n_power_iterations, self.eps, self.dim = count, eps, dim
        with context.using(tape=None):
            matrix = matrix_of(weight.detach(), dim)
            u, v = (direction(n, weight.dtype, eps) for n in matrix.shape)
            for _ in range(FIRST):
                power_iteration(matrix.T, v, u, eps)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        """Return a weight divided by its largest singular value."""
        u, v = self._u, self._v
        if self.training:
            for _ in range(self.n_power_iterations):
                power_iteration(matrix_of(weight, self.dim).T, v, u, self.eps)
        return spectral(weight, u, v, self.dim)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """`utils.weight_norm`, with the length as `parametrizations.weight.original0` and the direction
    as `original1`."""
    return register_parametrization(module, name, _WeightNorm(dim))


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """`utils.spectral_norm`, with the weight as `parametrizations.weight.original` and the singular
    vectors as buffers of `parametrizations.weight.0`."""
    p = parameter_of("spectral_norm", module, name)
    dim = rows_of(module) if dim is None else dim
    return register_parametrization(module, name, _SpectralNorm(p, n_power_iterations, eps, dim))
