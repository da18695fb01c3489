"""The two networks called LeNet: Caffe's, and the paper's LeNet-5."""

from __future__ import annotations

from ..functional.arrange import pad
from ..nn.activation import ReLU, Tanh
from ..nn.containers import Sequential
from ..nn.layers import Conv2d, Flatten, Linear
from ..nn.module import Module
from ..nn.pool import AvgPool2d, MaxPool2d
from ..tensor import Tensor
from .registry import Shape, register


@register("lenet")
def lenet(input_shape: Shape = (1, 28, 28), classes: int = 10) -> Module:
    """Return Caffe's LeNet, from its MNIST example.

    Convolutions of 20 and 50 filters 5 x 5, each followed by max pooling over 2 x 2, then 500 units
    with ReLU and a linear layer. An image of 28 x 28 takes 2,293,000 MACs, 1,888,000 of them in the
    convolutions; there are 431,080 parameters. ValueError for images below 16 x 16."""
    channels, *extents = input_shape
    h, w = [((n - 4) // 2 - 4) // 2 for n in extents]
    if min(extents) < 16:
        raise ValueError(
            f"lenet: expected images of at least 16 x 16, got {extents[0]} x {extents[1]}"
        )
    layers: dict[str, Module] = {
        "conv1": Conv2d(channels, 20, 5),
        "pool1": MaxPool2d(2),
        "conv2": Conv2d(20, 50, 5),
        "pool2": MaxPool2d(2),
        "flatten": Flatten(),
        "fc1": Linear(50 * h * w, 500),
        "relu": ReLU(),
        "fc2": Linear(500, classes),
    }
    return Sequential(layers)


class LeNet5(Module):
    """LeNet-5 (LeCun et al. 1998).

    It differs from the paper in three points: every feature map of C3 is connected to every map of
    S2, subsampling takes means, without trained weights, and the last layer is linear. Images up to
    32 x 32 are padded to that size with zeros."""

    def __init__(self, input_shape: Shape, classes: int) -> None:
        channels, height, width = input_shape
        if max(height, width) > 32:
            raise ValueError(f"lenet5: expected images of at most 32 x 32, got {height} x {width}")
        top, left = (32 - height) // 2, (32 - width) // 2
        self.border = (left, 32 - width - left, top, 32 - height - top)
        self.c1 = Conv2d(channels, 6, 5)
        self.c3 = Conv2d(6, 16, 5)
        self.c5 = Conv2d(16, 120, 5)
        self.f6 = Linear(120, 84)
        self.output = Linear(84, classes)
        self.squash = Tanh()
        self.subsample = AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes); x (N, C, H, W)."""
        x = pad(x, self.border) if any(self.border) else x
        x = self.subsample(self.squash(self.c1(x)))
        x = self.subsample(self.squash(self.c3(x)))
        x = self.squash(self.c5(x)).flatten(1)
        return self.output(self.squash(self.f6(x)))


@register("lenet5")
def lenet5(input_shape: Shape = (1, 28, 28), classes: int = 10) -> Module:
    """Return LeNet-5 (LeCun et al. 1998), see `LeNet5`.

    For one channel and ten classes it takes 416,520 MACs an image and has 61,470 weights and 236
    biases. ValueError for images above 32 x 32."""
    return LeNet5(input_shape, classes)
