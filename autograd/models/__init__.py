"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`.

They classify images (N, C, H, W) and return logits (N, classes); an autoencoder returns the images
again. Sources stand with each."""

from . import (
    airbench,
    alexnet,
    autoencoder,
    googlenet,
    imagenet_resnet,
    lenet,
    lstm,
    mlp,
    resnet,
    vgg,
)
from .naming import full_name, parse_options, split_name
from .registry import (
    classes,
    create,
    input_shape,
    names,
    register,
    takes_classes,
    training_loss,
)

__all__ = [
    "airbench",
    "alexnet",
    "autoencoder",
    "classes",
    "create",
    "full_name",
    "googlenet",
    "imagenet_resnet",
    "input_shape",
    "lenet",
    "lstm",
    "mlp",
    "names",
    "parse_options",
    "register",
    "resnet",
    "split_name",
    "takes_classes",
    "training_loss",
    "vgg",
]
