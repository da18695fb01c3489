"""Optimizers by name: `create("sgd", parameters, 0.1, momentum=0.9)`.

A new optimizer is a file beside this one and a line in `_OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import Any

from ..suggest import unknown
from ..tensor import Parameter
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adam_variants import Adamax, NAdam, RAdam
from .asgd import ASGD
from .layerwise import LAMB, LARS, Muon
from .optimizer import Optimizer, Parameters
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedules import Schedule
from .sgd import SGD

_OPTIMIZERS: dict[str, type[Any]] = {
    "sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad,
    "nadam": NAdam, "radam": RAdam, "adamax": Adamax, "adadelta": Adadelta, "asgd": ASGD,
    "rprop": Rprop, "lars": LARS, "lamb": LAMB, "muon": Muon,
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Return the names of all optimizers."""
    return tuple(_OPTIMIZERS)


def options(name: str) -> tuple[str, ...]:
    """Return the settings of an optimizer besides the learning rate, such as momentum. ValueError
    for an unknown name, with the nearest."""
    shared = {"params", "lr", "named_parameters", "options"}
    return tuple(p for p in signature(_class(name)).parameters if p not in shared)


def defaults(name: str) -> dict[str, Any]:
    """Return the settings of an optimizer that have a default, the learning rate among them.
    ValueError for an unknown name, with the nearest."""
    settings = signature(_class(name)).parameters.values()
    every = {p.name: p.default for p in settings if p.default is not p.empty}
    return {n: value for n, value in every.items() if n in ("lr", *options(name))}


def usual_settings(name: str) -> dict[str, Any]:
    """Return the settings with which the optimizer is commonly used, to count or time its work:
    that depends on which are set, hardly on their values. ValueError for an unknown name."""
    return dict(_class(name).usual)


def is_elementwise(name: str) -> bool:
    """Tell whether an optimizer updates each element by itself, so that slices of parameters can be
    updated apart. ValueError for an unknown name, with the nearest."""
    return bool(_class(name).elementwise)


def create(
    name: str,
    params: Parameters,
    lr: float | Schedule,
    named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    **settings: Any,
) -> Optimizer:
    """Return a new optimizer; `settings` are among its `options`, whose defaults are the class's.
    ValueError for an unknown name or setting, with the nearest, and for one out of its range."""
    known = options(name)
    for setting in settings.keys() - {*known}:
        raise unknown(f"setting of optimizer {name}", setting, known)
    made: Optimizer = _class(name)(params, lr, named_parameters=named_parameters, **settings)
    return made


def _class(name: str) -> type[Any]:
    """Return the class of a name. ValueError for an unknown one, with the nearest."""
    if name not in _OPTIMIZERS:
        raise unknown("optimizer", name, _OPTIMIZERS)
    return _OPTIMIZERS[name]
