"""What the ImageNet networks without shortcuts share: initialisation, the final linear layers,
checks of image sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .. import backends, context
from ..functional.create import zeros
from ..ledger import Ledger
from ..nn import init
from ..nn.activation import ReLU
from ..nn.containers import Sequential
from ..nn.dropout import Dropout
from ..nn.layers import Conv2d, Flatten, Linear
from ..nn.module import Module
from ..nn.norm import LocalResponseNorm
from ..tensor import Tensor
from .registry import Shape

Layers = Mapping[str, Module]
L = TypeVar("L", Conv2d, Linear)


def he(layer: L) -> L:
    """Initialise a layer's weights as in He et al. (2015) and its biases with zeros; return the
    layer.

    With torch's default the signal fades in deep networks without batch norm, and they hardly
    train."""
    init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        init.zeros_(layer.bias)
    return layer


def response_norm() -> LocalResponseNorm:
    """Return the local response norm of Krizhevsky et al. (2012).

    It is x / (2 + 1e-4 S)^0.75, S the sum of squares over 5 channels."""
    return LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def check_extent(name: str, input_shape: Shape, least: int, usual: int) -> None:
    """ValueError for images below `least` x `least`."""
    _, height, width = input_shape
    if min(height, width) < least:
        raise ValueError(
            f"{name}: expected images of at least {least} x {least}, usually {usual} x {usual}, "
            f"got {height} x {width}"
        )


def outcome(function: Callable[[Tensor], Tensor], input_shape: Shape) -> tuple[int, ...]:
    """Return the shape that a function returns for one image, without computing it."""
    with context.using(backend=backends.SHAPES_ONLY, ledger=Ledger(), tape=None):
        return function(zeros(1, *input_shape)).shape[1:]


def classifier(
    features: Layers, input_shape: Shape, hidden: Sequence[int], classes: int, dropout: float
) -> Sequential:
    """Return the features followed by linear layers fc6, fc7, .. .

    There are as many as `hidden` has widths, each with ReLU and dropout, and one more for the
    classes."""
    layers = {**features, "flatten": Flatten()}
    (inside,) = outcome(Sequential(layers), input_shape)
    for i, width in enumerate(hidden, 6):
        layers[f"fc{i}"] = he(Linear(inside, width))
        layers[f"relu{i}"], layers[f"dropout{i}"] = ReLU(), Dropout(dropout)
        inside = width
    layers[f"fc{6 + len(hidden)}"] = Linear(inside, classes)
    return Sequential(layers)
