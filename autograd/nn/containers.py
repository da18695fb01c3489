"""Modules and parameters held by key or in a list, and called or read by whoever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from ..tensor import Parameter, Tensor
from .module import Module, joined

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


def checked(container: str, name: str, module: Any) -> Any:
    """Return a module that a container is to hold. TypeError for what is none, such as a class."""
    if not isinstance(module, Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else f"{module!r:.60}"
        raise TypeError(f"{container}: {name}: expected a Module, got {got}")
    return module


class Container(Module):
    """Modules which whoever holds the container may also call one by one."""

    def _inner(self, name: str) -> str:
        return joined(self._name, name)

    def _called(self, name: str) -> None:
        super()._called(name)
        for key, module in self.named_children():
            module._called(self._inner(key))


class _Series(Container):
    """Modules by number."""

    def __len__(self) -> int:
        return len([*self.children()])

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def append(self, module: Module) -> Self:
        """Add a module at the end. Return self."""
        name = str(len(self))
        setattr(self, name, checked(type(self).__name__, name, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end. Return self."""
        for module in modules:
            self.append(module)
        return self

    def __setitem__(self, index: int, module: Module) -> None:
        name = [name for name, _ in self.named_children()][index]
        setattr(self, name, checked(type(self).__name__, name, module))


class Sequential(_Series):
    """Modules called one after the other, each on the result of the one before.

    They are named "0", "1", .. or by the keys of a mapping. ValueError for a name with a dot, or
    one that is in use; TypeError for what is no module."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        for i, item in enumerate(modules):
            for name, module in item.items() if isinstance(item, Mapping) else [(str(i), item)]:
                if hasattr(self, name) or "." in name or not name:
                    raise ValueError(
                        f"Sequential: expected an unused name without dots, got {name!r}"
                    )
                setattr(self, name, checked("Sequential", name, module))

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(dict([*self.named_children()][index]))
        return [*self.children()][index]

    def _inner(self, name: str) -> str:
        # A subclass with a forward of its own calls its modules within its own scope.
        return super()._inner(name) if type(self).forward is Sequential.forward else name

    def forward(self, x: Any) -> Any:
        """Return the result of the last module."""
        for name, module in self.named_children():
            x = module._run(name, x)
        return x


class ModuleList(_Series):
    """Modules in a list, called by whoever holds it; their scopes have the list's name in front."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> list[Module]: ...
    def __getitem__(self, index: int | slice) -> Module | list[Module]:
        return [*self.children()][index]


class _Keyed(Module):
    """Modules or parameters by key, in the order in which they came."""

    kind: type = Module

    def _check(self, key: str) -> None:
        """ValueError for a key that is no name of its own."""
        taken = hasattr(self, key) and key not in self._held()
        if not isinstance(key, str) or not key or "." in key or taken:
            raise ValueError(
                f"{type(self).__name__}: expected an unused key without dots, got {key!r}"
            )

    def _held(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if isinstance(v, self.kind)}

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._held())

    def __contains__(self, key: object) -> bool:
        return key in self._held()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(f"{type(self).__name__}: expected one of {[*self]}, got {key!r}")
        return self._held()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._check(key)
        setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        delattr(self, key)

    def keys(self) -> Iterable[str]:
        """Return the keys."""
        return self._held().keys()

    def values(self) -> Iterable[Any]:
        """Return what is held."""
        return self._held().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of a key and what it holds."""
        return self._held().items()

    def update(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Hold more, in the place of what has the same key."""
        for key, value in dict(values).items():
            self[key] = value

    def pop(self, key: str) -> Any:
        """Return what a key holds, and drop it."""
        value = self[key]
        del self[key]
        return value


class ModuleDict(_Keyed, Container):
    """Modules by key, called by whoever holds it; scopes have its name in front.

    ValueError for a key with a dot, or one that is an attribute."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self.update(modules or {})

    def __setitem__(self, key: Any, value: Module) -> None:
        if not isinstance(value, Module):
            raise TypeError(f"ModuleDict: expected a Module, got {type(value).__name__}")
        super().__setitem__(key, value)


class ParameterDict(_Keyed):
    """Parameters by key; a tensor becomes one. ValueError for a key with a dot, or one that is an
    attribute."""

    kind = Parameter

    def __init__(self, parameters: Mapping[str, Tensor] | None = None) -> None:
        self.update(parameters or {})

    def __setitem__(self, key: str, value: Tensor) -> None:
        super().__setitem__(key, _parameter(value))


class ParameterList(Module):
    """Parameters in a list; a tensor becomes one."""

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        self.extend(values)

    def _held(self) -> list[Parameter]:
        return [v for v in vars(self).values() if isinstance(v, Parameter)]

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._held())

    def __getitem__(self, index: int) -> Parameter:
        return self._held()[index]

    def __setitem__(self, index: int, value: Tensor) -> None:
        setattr(self, str(range(len(self))[index]), _parameter(value))

    def append(self, value: Tensor) -> Self:
        """Add a parameter at the end. Return self."""
        setattr(self, str(len(self)), _parameter(value))
        return self

    def extend(self, values: Iterable[Tensor]) -> Self:
        """Add parameters at the end. Return self."""
        for value in values:
            self.append(value)
        return self


def _parameter(value: Tensor) -> Parameter:
    """Return a tensor as a parameter. TypeError for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"parameter: expected a Tensor, got {type(value).__name__}")
    return value if isinstance(value, Parameter) else Parameter(value)
