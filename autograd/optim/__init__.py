"""Optimizers and learning rates."""

from . import lr_scheduler, schedules
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adam_variants import Adamax, NAdam, RAdam
from .asgd import ASGD
from .averages import EMA, Falling, Lookahead
from .group import ParameterGroup, Run, SlottedGroup
from .layerwise import LAMB, LARS, Muon
from .lbfgs import LBFGS
from .optimizer import Optimizer
from .registry import create, defaults, is_elementwise, names, options, usual_settings
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD

__all__ = [
    "ASGD",
    "EMA",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Falling",
    "Lookahead",
    "Muon",
    "NAdam",
    "Optimizer",
    "ParameterGroup",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Run",
    "SlottedGroup",
    "create",
    "defaults",
    "is_elementwise",
    "lr_scheduler",
    "names",
    "options",
    "schedules",
    "usual_settings",
]
