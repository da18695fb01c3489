"""Modules that compute a parameter from others, with torch's names: `parametrizations.weight` holds
`original` (or `original0`, `original1`, ..) and the modules by number."""

from __future__ import annotations

from typing import Any, TypeVar

from ...tensor import Parameter, Tensor
from ..containers import ModuleDict
from ..module import Module
from .computed import compute, computed_of, parameter_of, restore

__all__ = [
    "ParametrizationList",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
]

M = TypeVar("M", bound=Module)


class ParametrizationList(Module):
    """Modules that compute a tensor, the first one from the originals, each of the others from the
    result before."""

    def __init__(self, first: Module, value: Parameter) -> None:
        inverse = getattr(first, "right_inverse", None)
        originals = value if inverse is None else inverse(value.detach())
        several = isinstance(originals, tuple)
        self.names = [f"original{i}" for i in range(len(originals))] if several else ["original"]
        for name, original in zip(self.names, originals if several else (originals,), strict=True):
            p = original if isinstance(original, Parameter) else Parameter(original)
            setattr(self, name, p.requires_grad_(value.requires_grad))
        self.count = 0
        self.add(first)

    def add(self, module: Module) -> None:
        """Add a module at the end."""
        setattr(self, str(self.count), module)
        self.count += 1

    def forward(self) -> Tensor:
        """Return the computed tensor."""
        first, *others = self.children()
        y: Tensor = first(*(getattr(self, name) for name in self.names))
        for module in others:
            y = module(y)
        return y


def register_parametrization(module: M, tensor_name: str, parametrization: Module) -> M:
    """Let a module compute a parameter by `parametrization(original)` at each reading; a second one
    goes on from the first one's result.

    `right_inverse(value)`, where the parametrization has one, returns the original, or a tuple of
    several, at the start. Return the module. ValueError where there is no such parameter, or for a
    result of another shape."""
    if is_parametrized(module, tensor_name):
        _lists(module)[tensor_name].add(parametrization)
        return module
    p = parameter_of("register_parametrization", module, tensor_name)
    steps = ParametrizationList(parametrization, p)
    shape = steps().shape
    if shape != p.shape:
        raise ValueError(
            f"register_parametrization: {tensor_name}: expected a result of shape {p.shape}, got "
            f"{shape}"
        )
    compute(module, tensor_name, lambda owner: _lists(owner)[tensor_name]())
    if not _lists(module):
        module.add_module("parametrizations", ModuleDict())
    _lists(module)[tensor_name] = steps
    return module


def _lists(module: Module) -> Any:
    """Return the parametrizations of a module, by the names of what they compute."""
    return vars(module).get("parametrizations", {})


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Tell whether a module has parametrizations, or one of a name."""
    lists = _lists(module)
    return bool(len(lists)) if tensor_name is None else tensor_name in lists


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Let a module have the parameter again, with the numbers that were computed last, or, without
    `leave_parametrized`, the original. Return it. ValueError without a parametrization, or for
    several originals."""
    if not is_parametrized(module, tensor_name) or tensor_name not in computed_of(module):
        raise ValueError(
            f"remove_parametrizations: expected a parametrized {tensor_name!r}, got one that is not"
        )
    steps = _lists(module)[tensor_name]
    if leave_parametrized:
        steps.eval()  # or spectral norm would go on
        p = Parameter(steps().detach().clone())
    elif steps.names != ["original"]:
        raise ValueError(
            f"remove_parametrizations: {tensor_name}: expected one original, got {steps.names}"
        )
    else:
        p = steps.original
    del _lists(module)[tensor_name]
    if not _lists(module):
        delattr(module, "parametrizations")
    restore(module, tensor_name, p)
    return module
