"""Models by name: `create("lenet", input_shape=(1, 28, 28), classes=10)`.

They classify images (N, C, H, W) and return logits (N, classes); an autoencoder returns the images
again. Sources stand with each."""

from . import alexnet, autoencoder, googlenet, imagenet_resnet, lenet, lstm, mlp, resnet, vgg
from .registry import classes, create, input_shape, names, register, usual_loss

__all__ = [
    "alexnet",
    "autoencoder",
    "classes",
    "create",
    "googlenet",
    "imagenet_resnet",
    "input_shape",
    "lenet",
    "lstm",
    "mlp",
    "names",
    "register",
    "resnet",
    "usual_loss",
    "vgg",
]
