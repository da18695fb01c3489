"""Optimizers and learning rates."""

from . import schedules
from .optimizer import Optimizer, ParameterGroup
from .registry import create, names, options, usual_settings
from .sgd import SGD

__all__ = [
    "SGD",
    "Optimizer",
    "ParameterGroup",
    "create",
    "names",
    "options",
    "schedules",
    "usual_settings",
]
