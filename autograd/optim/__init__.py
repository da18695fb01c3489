"""Optimizers and learning rates."""

from . import schedules
from .sgd import SGD, ParameterGroup

__all__ = ["SGD", "ParameterGroup", "schedules"]
