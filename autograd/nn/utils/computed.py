"""Tensors of a module that are computed anew, from its parameters, at each reading.

The module gets a class of its own, with a property in the place of the parameter: gradients pass
through it to what it is computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ...tensor import Parameter, Tensor
from ..module import Module

Compute: TypeAlias = Callable[[Module], Tensor]


def parameter_of(what: str, module: Module, name: str) -> Parameter:
    """Return the parameter under a name. ValueError for what is none, or is computed."""
    p = vars(module).get(name)
    if not isinstance(p, Parameter):
        kind = "a computed tensor" if name in computed_of(module) else type(p).__name__
        raise ValueError(f"{what}: expected a parameter {name!r}, got {kind}")
    return p


def computed_of(module: Module) -> dict[str, Compute]:
    """Return what is computed in a module, by name."""
    found: dict[str, Compute] = vars(module).get("_computed", {})
    return found


def compute(module: Module, name: str, function: Compute) -> None:
    """Compute a tensor of a module from now on, in the place of the parameter under that name."""
    if name in vars(module):
        delattr(module, name)
    _retype(module, {**computed_of(module), name: function})


def restore(module: Module, name: str, parameter: Parameter) -> None:
    """Let a module have a parameter again in the place of a computed tensor."""
    _retype(module, {k: f for k, f in computed_of(module).items() if k != name})
    setattr(module, name, parameter)


def _retype(module: Module, computed: dict[str, Compute]) -> None:
    kind: Any = getattr(type(module), "_plain", type(module))
    module._computed = computed
    if computed:
        properties: dict[str, Any] = {name: _property(name) for name in computed}
        own = {"_plain": kind, "__module__": kind.__module__, "__doc__": kind.__doc__}
        kind = type(kind.__name__, (kind,), {**own, **properties})
    module.__class__ = kind


def _property(name: str) -> property:
    return property(lambda module: computed_of(module)[name](module))
