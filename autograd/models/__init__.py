"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`.

They classify images (N, C, H, W) and return logits (N, classes). Sources stand with each."""

from . import lenet, lstm, mlp, resnet
from .registry import create, names, register

__all__ = ["create", "lenet", "lstm", "mlp", "names", "register", "resnet"]
