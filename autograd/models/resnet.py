"""Blocks of residual networks, and the networks for small images (He et al. 2016, section 4.2; with
pre-activation He et al. 2016b, Identity mappings in deep residual networks)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ..functional.activation import relu
from ..functional.arrange import pad
from ..nn import init
from ..nn.containers import Sequential
from ..nn.layers import Conv2d, Identity, Linear
from ..nn.module import Module
from ..nn.norm import BatchNorm2d
from ..nn.pool import AdaptiveAvgPool2d
from ..suggest import unknown
from ..tensor import Tensor
from .registry import Shape, register

Option = Literal["A", "B"]
StrideIn = Literal["1x1", "3x3"]


class Subsample(Module):
    """Every second pixel, with channels of zeros added on both sides: the shortcut without
    weights."""

    shown = ("channels", "stride")

    def __init__(self, channels: int, stride: int) -> None:
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        more = self.channels - x.shape[1]
        return pad(x, (0, 0, 0, 0, more // 2, more - more // 2))


def convolution(inside: int, outside: int, size: int, stride: int = 1) -> Conv2d:
    """Return a convolution without bias that keeps the extent, initialised as in He et al.
    (2015)."""
    layer = Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)
    init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def shortcut(inside: int, outside: int, stride: int, option: Option, norm: bool = True) -> Module:
    """Return what a block adds its result to.

    It is the identity where the shapes are equal; else, by option A, every `stride`-th pixel with
    zeros for the new channels, by option B a convolution 1 x 1, with batch norm unless `norm` is
    False."""
    if stride == 1 and inside == outside:
        return Identity()
    if option == "A":
        return Subsample(outside, stride)
    layer = convolution(inside, outside, 1, stride)
    return Sequential(layer, BatchNorm2d(outside)) if norm else layer


class BasicBlock(Module):
    """relu(x + f(x)), f being two convolutions 3 x 3 (He et al. 2016)."""

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
    """relu(x + f(x)), f being convolutions 1 x 1, 3 x 3 and 1 x 1.

    The last has four times as many channels (He et al. 2016, section 4.1). `stride_in`: which of
    the first two has the stride."""

    layers = 3
    widening = 4

    def __init__(
        self, inside: int, width: int, stride: int, option: Option, stride_in: StrideIn = "3x3"
    ) -> None:
        outside = self.widening * width
        first, second = strides(stride, stride_in)
        self.conv1 = convolution(inside, width, 1, first)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, second)
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


class Preactivated(Module):
    """What blocks share that normalise and rectify their input, not their result (He et al. 2016b).

    A shortcut with weights reads the rectified input, too; with `shared`, any shortcut does."""

    def __init__(self, inside: int, outside: int, stride: int, option: Option) -> None:
        self.bn1 = BatchNorm2d(inside)
        self.shortcut = shortcut(inside, outside, stride, option, norm=False)
        self.shared = isinstance(self.shortcut, Conv2d)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of f, and what f's result is added to."""
        ready = relu(self.bn1(x))
        return ready, self.shortcut(ready if self.shared else x)


class PreactivatedBasicBlock(Preactivated):
    """x + f(x), f being two convolutions 3 x 3, with batch norm and ReLU before each."""

    layers = 2
    widening = 1

    def __init__(self, inside: int, width: int, stride: int, option: Option) -> None:
        super().__init__(inside, width, stride, option)
        self.conv1 = convolution(inside, width, 3, stride)
        self.bn2 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H / stride, W / stride)."""
        ready, residual = self.split(x)
        return self.conv2(relu(self.bn2(self.conv1(ready)))) + residual


class PreactivatedBottleneck(Preactivated):
    """x + f(x), f being convolutions 1 x 1, 3 x 3 and 1 x 1, with batch norm and ReLU before each.

    `stride_in`: which of the first two has the stride."""

    layers = 3
    widening = 4

    def __init__(
        self, inside: int, width: int, stride: int, option: Option, stride_in: StrideIn = "3x3"
    ) -> None:
        super().__init__(inside, self.widening * width, stride, option)
        first, second = strides(stride, stride_in)
        self.conv1 = convolution(inside, width, 1, first)
        self.bn2 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, second)
        self.bn3 = BatchNorm2d(width)
        self.conv3 = convolution(width, self.widening * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4 width, H / stride, W / stride)."""
        ready, residual = self.split(x)
        y = self.conv2(relu(self.bn2(self.conv1(ready))))
        return self.conv3(relu(self.bn3(y))) + residual


Block = BasicBlock | Bottleneck | PreactivatedBasicBlock | PreactivatedBottleneck
_BLOCKS: dict[str, tuple[type[Block], type[Block]]] = {
    "basic": (BasicBlock, PreactivatedBasicBlock),
    "bottleneck": (Bottleneck, PreactivatedBottleneck),
}


def strides(stride: int, stride_in: StrideIn) -> tuple[int, int]:
    """Return the strides of a bottleneck's convolutions 1 x 1 and 3 x 3. ValueError for a
    `stride_in` other than "1x1" and "3x3"."""
    if stride_in not in ("1x1", "3x3"):
        raise unknown("stride_in of resnet", stride_in, ("1x1", "3x3"))
    return (stride, 1) if stride_in == "1x1" else (1, stride)


def stage(
    make: Callable[[int, int, int], Block], inside: int, width: int, n: int, stride: int
) -> Sequential:
    """Return n blocks, each `make(inside, width, stride)`, of which the first has the stride."""
    blocks = [make(inside, width, stride)]
    blocks += [make(blocks[0].widening * width, width, 1) for _ in range(n - 1)]
    return Sequential(*blocks)


class ResNet(Module):
    """A convolution 3 x 3, three stages of n blocks, global average pooling, a linear layer.

    The stages work at full, half and quarter extent with `width`, 2 and 4 times as many channels.
    That makes 6n + 2 layers with weights for basic blocks, 9n + 2 for bottlenecks; convolutions of
    shortcuts do not count. Where blocks begin with batch norm and ReLU, those of the first
    convolution stand after the last block instead."""

    def __init__(
        self, input_shape: Shape, classes: int, n: int, width: int, kind: type[Block],
        **options: Any,
    ) -> None:  # fmt: skip
        make = partial(kind, **options)
        wide, self.preactivated = kind.widening * width, issubclass(kind, Preactivated)
        self.conv1 = convolution(input_shape[0], width, 3)
        self.bn1 = BatchNorm2d(4 * wide if self.preactivated else width)
        self.stage1 = stage(make, width, width, n, 1)
        self.stage2 = stage(make, wide, 2 * width, n, 2)
        self.stage3 = stage(make, 2 * wide, 4 * width, n, 2)
        self.pool = AdaptiveAvgPool2d(1)
        self.fc = Linear(4 * wide, classes)
        first = self.stage1[0]
        if isinstance(first, Preactivated):
            first.shared = True  # the paper's appendix: nothing passes the first ReLU by

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes); x (N, C, H, W)."""
        x = self.conv1(x)
        x = x if self.preactivated else relu(self.bn1(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        x = relu(self.bn1(x)) if self.preactivated else x
        return self.fc(self.pool(x).flatten(1))


@register("resnet", depths=(20, 32, 44, 56, 110))
def resnet(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    depth: int = 20,
    option: Option = "A",
    block: str = "basic",
    width: int = 16,
    preactivation: bool = False,
    stride_in: StrideIn = "3x3",
) -> Module:
    """Return a residual network for small images with `depth` layers that have weights, see
    `ResNet`.

    The names resnet18, 34, 50, 101 and 152 are those of ImageNet, see `imagenet_resnet`.

    `option`: shortcuts between stages, "A" with zeros, as in the paper for CIFAR-10, or "B" with
    convolutions; `block`: "basic" or "bottleneck"; `width`: channels of the first stage, 16 in the
    paper; `preactivation`: blocks as in He et al. (2016b); `stride_in`: the convolution of a
    bottleneck that has the stride. ResNet-20 has 269,722 parameters. ValueError for a depth that
    the block cannot make."""
    if option not in ("A", "B"):
        raise unknown("shortcut option of resnet", option, ("A", "B"))
    if block not in _BLOCKS:
        raise unknown("block of resnet", block, _BLOCKS)
    kind = _BLOCKS[block][bool(preactivation)]
    step = 3 * kind.layers
    n, remainder = divmod(depth - 2, step)
    if n < 1 or remainder:
        near = step * max(round((depth - 2) / step), 1) + 2
        raise ValueError(
            f"resnet: expected depth {step}n + 2 with {block} blocks, such as {near}, got {depth}"
        )
    options = {"option": option} if block == "basic" else {"option": option, "stride_in": stride_in}
    return ResNet(input_shape, classes, n, width, kind, **options)


@register("resnet1001")
def resnet1001(
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    preactivation: bool = True,
    option: Option = "B",
    stride_in: StrideIn = "1x1",
    width: int = 16,
) -> Module:
    """Return the network of 1,001 layers of He et al. (2016b): 111 bottlenecks in each stage of
    `resnet`, with pre-activation, or without, for comparison."""
    return resnet(input_shape, classes, 1001, option, "bottleneck", width, preactivation, stride_in)
