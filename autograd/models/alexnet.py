"""AlexNet and what came right after it: OverFeat's fast network."""

from __future__ import annotations

from collections.abc import Sequence

from ..nn.activation import ReLU
from ..nn.layers import Conv2d
from ..nn.module import Module
from ..nn.pool import MaxPool2d
from .plain import check_extent, classifier, he, response_norm
from .registry import Shape, register


@register("alexnet")
def alexnet(
    input_shape: Shape = (3, 227, 227),
    classes: int = 1000,
    groups: int = 2,
    hidden: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
) -> Module:
    """Return the network of Krizhevsky et al. (2012): five convolutions, the first two with local
    response norm, max pooling over overlapping windows, and three linear layers.

    `groups`: the second, fourth and fifth convolution are split in 2, as over the paper's two GPUs,
    or not (1); `hidden`: widths of fc6 and fc7, whose results are dropped with probability
    `dropout`. An image of 227 x 227 takes 724,406,816 MACs with groups; there are 60,965,224
    parameters. ValueError for other groups and for images below 67 x 67."""
    if groups not in (1, 2):
        raise ValueError(f"alexnet: expected 1 or 2 groups, got {groups}")
    check_extent("alexnet", input_shape, 67, 227)
    features: dict[str, Module] = {
        "conv1": he(Conv2d(input_shape[0], 96, 11, 4)),
        "relu1": ReLU(),
        "norm1": response_norm(),
        "pool1": MaxPool2d(3, 2),
        "conv2": he(Conv2d(96, 256, 5, padding=2, groups=groups)),
        "relu2": ReLU(),
        "norm2": response_norm(),
        "pool2": MaxPool2d(3, 2),
        "conv3": he(Conv2d(256, 384, 3, padding=1)),
        "relu3": ReLU(),
        "conv4": he(Conv2d(384, 384, 3, padding=1, groups=groups)),
        "relu4": ReLU(),
        "conv5": he(Conv2d(384, 256, 3, padding=1, groups=groups)),
        "relu5": ReLU(),
        "pool5": MaxPool2d(3, 2),
    }
    return classifier(features, input_shape, hidden, classes, dropout)


@register("overfeat")
def overfeat(
    input_shape: Shape = (3, 231, 231),
    classes: int = 1000,
    hidden: Sequence[int] = (3072, 4096),
    dropout: float = 0.5,
) -> Module:
    """Return the fast network of Sermanet et al. (2014), table 1.

    It is AlexNet without response norm and groups, with max pooling over 2 x 2 without overlap and
    wider layers.

    `hidden`: widths of fc6 and fc7, whose results are dropped with probability `dropout`. An image
    of 231 x 231 takes 2,801,403,904 MACs. ValueError for images below 71 x 71."""
    check_extent("overfeat", input_shape, 71, 231)
    features: dict[str, Module] = {
        "conv1": he(Conv2d(input_shape[0], 96, 11, 4)),
        "relu1": ReLU(),
        "pool1": MaxPool2d(2),
        "conv2": he(Conv2d(96, 256, 5)),
        "relu2": ReLU(),
        "pool2": MaxPool2d(2),
        "conv3": he(Conv2d(256, 512, 3, padding=1)),
        "relu3": ReLU(),
        "conv4": he(Conv2d(512, 1024, 3, padding=1)),
        "relu4": ReLU(),
        "conv5": he(Conv2d(1024, 1024, 3, padding=1)),
        "relu5": ReLU(),
        "pool5": MaxPool2d(2),
    }
    return classifier(features, input_shape, hidden, classes, dropout)
