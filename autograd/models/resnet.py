"""Residual networks for small images (He et al. 2016, section 4.2)."""

from __future__ import annotations

from typing import Literal

from ..functional.activation import relu
from ..functional.arrange import pad
from ..nn import init
from ..nn.errors import unknown
from ..nn.layers import Conv2d, Identity, Linear
from ..nn.module import Module, Sequential
from ..nn.norm import BatchNorm2d
from ..nn.pool import AdaptiveAvgPool2d
from ..tensor import Tensor
from .registry import Shape, register

Option = Literal["A", "B"]


class Subsample(Module):
    """Every second pixel, with channels of zeros on both sides: the shortcut without weights."""

    shown = ("channels", "stride")

    def __init__(self, channels: int, stride: int) -> None:
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        more = self.channels - x.shape[1]
        return pad(x, (0, 0, 0, 0, more // 2, more - more // 2))


def convolution(inside: int, outside: int, size: int, stride: int = 1) -> Conv2d:
    """Return a convolution without bias that keeps the extent, drawn as in He et al. (2015)."""
    layer = Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)
    init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def shortcut(inside: int, outside: int, stride: int, option: Option) -> Module:
    """Return what a block adds its result to: the identity where the shapes are equal; else by
    option A every `stride`-th pixel with zeros for the new channels, by option B a convolution
    1 x 1 with batch norm."""
    if stride == 1 and inside == outside:
        return Identity()
    if option == "A":
        return Subsample(outside, stride)
    return Sequential(convolution(inside, outside, 1, stride), BatchNorm2d(outside))


class BasicBlock(Module):
    """relu(x + f(x)) with f two convolutions 3 x 3."""

    layers = 2
    widening = 1

    def __init__(self, inside: int, width: int, stride: int, option: Option) -> None:
        self.conv1 = convolution(inside, width, 3, stride)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = BatchNorm2d(width)
        self.shortcut = shortcut(inside, width, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H / stride, W / stride)."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + self.shortcut(x))


class Bottleneck(Module):
    """relu(x + f(x)) with f convolutions 1 x 1, 3 x 3 and 1 x 1, the last to four times as many
    channels (He et al. 2016, section 4.1)."""

    layers = 3
    widening = 4

    def __init__(self, inside: int, width: int, stride: int, option: Option) -> None:
        outside = self.widening * width
        self.conv1 = convolution(inside, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = convolution(width, outside, 1)
        self.bn3 = BatchNorm2d(outside)
        self.shortcut = shortcut(inside, outside, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4 width, H / stride, W / stride)."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y + self.shortcut(x))


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(Module):
    """A convolution 3 x 3, three stages of n blocks, a mean over each channel, a linear layer.

    The stages work at full, half and quarter extent with `width`, 2 and 4 times as many channels.
    That makes 6n + 2 layers with weights of basic blocks, 9n + 2 of bottlenecks; convolutions of
    shortcuts do not count."""

    def __init__(
        self, input_shape: Shape, classes: int, n: int, block: str, width: int, option: Option
    ) -> None:
        kind = _BLOCKS[block]
        self.conv1 = convolution(input_shape[0], width, 3)
        self.bn1 = BatchNorm2d(width)
        inside, stages = width, []
        for wide, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            blocks = []
            for i in range(n):
                blocks.append(kind(inside, wide, stride if i == 0 else 1, option))
                inside = kind.widening * wide
            stages.append(Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.pool = AdaptiveAvgPool2d(1)
        self.fc = Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes); x (N, C, H, W)."""
        x = relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x).flatten(1))


@register("resnet", depths=(20, 32, 44, 56, 110))
def resnet(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    depth: int = 20,
    option: Option = "A",
    block: str = "basic",
    width: int = 16,
) -> Module:
    """Return a residual network with `depth` layers that have weights, see `ResNet`.

    `option`: shortcuts between stages "A" with zeros, as in the paper for CIFAR-10, or "B" with
    convolutions; `block`: "basic" or "bottleneck"; `width`: channels of the first stage, 16 in the
    paper. ResNet-20 has 269,722 parameters. ValueError for a depth that the block cannot make."""
    if option not in ("A", "B"):
        raise unknown("shortcut option of resnet", option, ("A", "B"))
    if block not in _BLOCKS:
        raise unknown("block of resnet", block, _BLOCKS)
    step = 3 * _BLOCKS[block].layers
    n, rest = divmod(depth - 2, step)
    if n < 1 or rest:
        near = step * max(round((depth - 2) / step), 1) + 2
        raise ValueError(f"resnet: {block} blocks make {step}n + 2 layers, not {depth}; try {near}")
    return ResNet(input_shape, classes, n, block, width, option)
