"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`."""

from .lenet import LeNet5, lenet, lenet5
from .lstm import RowLSTM, lstm
from .mlp import mlp
from .registry import create, names, register
from .resnet import ResNet, resnet

__all__ = [
    "LeNet5",
    "ResNet",
    "RowLSTM",
    "create",
    "lenet",
    "lenet5",
    "lstm",
    "mlp",
    "names",
    "register",
    "resnet",
]
