"""Weight norm and spectral norm, under the names that torch's older functions give to parameters;
see `parametrizations` for those of the newer ones."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from ...tensor import Parameter, Tensor
from ..module import Module
from .computed import compute, computed_of, parameter_of, restore
from .normed import direction, matrix_of, power_iteration, recomposed, rows_of, spectral, split

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Let a module train the length g and the direction v of a weight (Salimans and Kingma 2016):

        weight = g v / ||v||

    over all axes but `dim`, all for None. Its parameters are `weight_g` and `weight_v` then.
    Return the module. ValueError where there is no such parameter."""
    g, v = split(parameter_of("weight_norm", module, name), dim)
    compute(module, name, partial(_weight_normed, name=name, dim=dim))
    setattr(module, f"{name}_g", Parameter(g))
    setattr(module, f"{name}_v", Parameter(v))
    return module


def _weight_normed(module: Module, name: str, dim: int | None) -> Tensor:
    return recomposed(getattr(module, f"{name}_g"), getattr(module, f"{name}_v"), dim)


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Let a module train the weight again. Return it. ValueError without weight norm."""
    return _removed("weight_norm", module, name, ("g", "v"))


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """Divide a weight by its largest singular value, which each forward in training estimates by
    some more power iterations (Miyato et al. 2018).

    The weight is a matrix whose rows are the axis `dim`, by default that of the outputs. The
    module has a parameter `weight_orig` then, and buffers `weight_u` and `weight_v`, the singular
    vectors. Return the module. ValueError where there is no such parameter."""
    p = parameter_of("spectral_norm", module, name)
    dim = rows_of(module) if dim is None else dim
    rows, columns = matrix_of(p, dim).shape
    u, v = (direction(n, p.dtype, eps) for n in (rows, columns))
    compute(
        module, name,
        partial(_spectral_normed, name=name, count=n_power_iterations, eps=eps, dim=dim),
    )  # fmt: skip
    setattr(module, f"{name}_orig", p)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    return module


def _spectral_normed(module: Module, name: str, count: int, eps: float, dim: int) -> Tensor:
    weight, u, v = (getattr(module, f"{name}_{part}") for part in ("orig", "u", "v"))
    if module.training:
        for _ in range(count):
            power_iteration(matrix_of(weight, dim), u, v, eps)
    return spectral(weight, u, v, dim)


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Let a module train the weight again, divided as it is now. Return it. ValueError without
    spectral norm."""
    return _removed("spectral_norm", module, name, ("orig", "u", "v"))


def _removed(what: str, module: M, name: str, parts: tuple[str, ...]) -> M:
    if name not in computed_of(module) or not hasattr(module, f"{name}_{parts[-1]}"):
        raise ValueError(f"remove_{what}: expected a {name!r} with {what}, got one without")
    training, module.training = module.training, False  # the weight as it is
    weight = getattr(module, name).detach().clone()
    module.training = training
    for part in parts:
        delattr(module, f"{name}_{part}")
    restore(module, name, Parameter(weight))
    return module
