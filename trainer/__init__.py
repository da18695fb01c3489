"""Train and evaluate models on MPI ranks, and count what it costs.

The names below are for scripts: see docs/scripts.md. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data_parallel import DistributedOptimizer, distribute, evaluate
    from .errors import UserError
    from .fitting import History, fit
    from .saving import load, save
    from .session import barrier, init, print, rank, size, sum
    from .sharded_loader import ShardedLoader

__all__ = [
    "DistributedOptimizer", "History", "ShardedLoader", "UserError", "barrier", "distribute",
    "evaluate", "fit", "init", "load", "print", "rank", "save", "size", "sum",
]  # fmt: skip

_HOMES = {
    "data_parallel": ("DistributedOptimizer", "distribute", "evaluate"),
    "errors": ("UserError",),
    "fitting": ("History", "fit"),
    "saving": ("load", "save"),
    "session": ("barrier", "init", "print", "rank", "size", "sum"),
    "sharded_loader": ("ShardedLoader",),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, *globals()]
