"""Layers, with torch's names; initialisers; flat parameter buffers."""

from . import init
from ..tensor import Parameter
from .activation import ELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .flat import Flat, finish_order, flatten
from .layers import Conv2d, ConvTranspose2d, Flatten, Identity, Linear
from .module import Module, ModuleList, Sequential
from .pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from .norm import BatchNorm1d, BatchNorm2d
