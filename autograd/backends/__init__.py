"""Lazy registry of backends: a name to something that finds an implementation of a primitive."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..array import Spec
    from ..primitive import Primitive

Kernel = Callable[..., Any]


class Backend(Protocol):
    """What a backend has to offer."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> tuple[Kernel | None, str]:
        """Return the kernel for these shapes and the name that the ledger shows for it; a kernel
        of None leaves the results without numbers."""


_MODULES = {"numpy": "reference", "meta": "meta"}
_loaded: dict[str, Backend] = {}


def names() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_MODULES)


def get(name: str) -> Backend:
    """Return a backend by name, imported at its first use. ValueError for an unknown name."""
    if name not in _loaded:
        if name not in _MODULES:
            raise ValueError(f"backend {name!r} is unknown; there are {', '.join(_MODULES)}")
        module = import_module(f".{_MODULES[name]}", __package__)
        _loaded[name] = module.backend
    return _loaded[name]
