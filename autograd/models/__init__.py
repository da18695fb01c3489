"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`."""

from .lenet import LeNet5, lenet, lenet5
from .mlp import mlp
from .registry import create, names, register
from .resnet import ResNet, resnet

__all__ = ["LeNet5", "ResNet", "create", "lenet", "lenet5", "mlp", "names", "register", "resnet"]
