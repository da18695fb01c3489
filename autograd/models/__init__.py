"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`.

They classify images (N, C, H, W) and return logits (N, classes). Sources stand with each."""

from . import lenet, lstm, mlp, resnet
from .registry import classes, create, input_shape, names, register

__all__ = [
    "classes", "create", "input_shape", "lenet", "lstm", "mlp", "names", "register", "resnet",
]  # fmt: skip
