"""Layers, with torch's names; initialisers; flat parameter buffers."""

from ..tensor import Parameter
from . import init
from .activation import ELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .flat import Flat, finish_order, flatten
from .layers import Conv2d, ConvTranspose2d, Flatten, Identity, Linear
from .module import Module, ModuleList, Sequential
from .norm import BatchNorm1d, BatchNorm2d
from .pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d

__all__ = [
    "ELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Flat",
    "Flatten",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "finish_order",
    "flatten",
    "init",
]
