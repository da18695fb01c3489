"""Optimizers and learning rates."""

from . import schedules
from .optimizer import Optimizer, ParameterGroup
from .sgd import SGD

__all__ = ["SGD", "Optimizer", "ParameterGroup", "schedules"]
