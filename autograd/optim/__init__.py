"""Optimizers and learning rates."""

from . import lr_scheduler, schedules
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .averages import EMA, Falling, Lookahead
from .group import ParameterGroup, Run, SlottedGroup
from .layerwise import LAMB, LARS, Muon
from .optimizer import Optimizer
from .registry import create, defaults, names, options, usual_settings
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "EMA",
    "LAMB",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Falling",
    "Lookahead",
    "Muon",
    "Optimizer",
    "ParameterGroup",
    "RMSprop",
    "Run",
    "SlottedGroup",
    "create",
    "defaults",
    "lr_scheduler",
    "names",
    "options",
    "schedules",
    "usual_settings",
]
