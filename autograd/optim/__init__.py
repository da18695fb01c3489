"""Optimizers and learning rates."""

from . import schedules
from .sgd import SGD, Group

__all__ = ["SGD", "Group", "schedules"]
