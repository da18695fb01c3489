"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from ...functional.arrange import cat
from ...tensor import Tensor
from ..module import assign

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return the elements of parameters in one vector; gradients pass through."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of a vector to parameters, in order. ValueError for another number."""
    every = [*parameters]
    sizes = [p.numel() for p in every]
    if vec.shape != (sum(sizes),):
        raise ValueError(f"vector_to_parameters: expected shape {(sum(sizes),)}, got {vec.shape}")
    for p, part in zip(every, vec.detach().split(sizes), strict=True):
        assign(p, part.reshape(p.shape).array)
