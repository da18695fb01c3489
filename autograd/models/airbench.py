"""The network of airbench94 for small images (Jordan 2024, 94% on CIFAR-10 in 3.29 seconds)."""

from __future__ import annotations

from ..functional.activation import gelu
from ..functional.pool import max_pool2d
from ..nn import init
from ..nn.containers import Sequential
from ..nn.layers import Conv2d, Linear
from ..nn.module import Module
from ..nn.norm import BatchNorm2d
from ..tensor import Tensor
from .registry import Shape, register

WIDTHS = 64, 256, 256
SMALL = 1 / 9  # times the logits: the first updates are small


def _convolution(inside: int, outside: int) -> Conv2d:
    """Return a convolution 3 x 3 without bias, whose first filters pass their channel on."""
    layer = Conv2d(inside, outside, 3, padding=1, bias=False)
    init.dirac_(layer.weight.detach()[: min(inside, outside)])
    return layer


def _norm(channels: int) -> BatchNorm2d:
    """Return a batch norm that adapts quickly and does not learn a scale."""
    layer = BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    assert layer.weight is not None
    layer.weight.requires_grad = False
    return layer


class Block(Module):
    """Two convolutions, each with batch norm and GELU; the first one's result is halved."""

    def __init__(self, inside: int, width: int) -> None:
        self.conv1, self.norm1 = _convolution(inside, width), _norm(width)
        self.conv2, self.norm2 = _convolution(width, width), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H / 2, W / 2), x (N, inside, H, W)."""
        x = gelu(self.norm1(max_pool2d(self.conv1(x), 2)))
        return gelu(self.norm2(self.conv2(x)))


class AirBench(Module):
    """Whitened patches of 2 x 2 pixels, three blocks, a maximum over 3 x 3 and a linear layer.

    The filters that whiten are not trained; `prepare` computes them from images."""

    def __init__(self, input_shape: Shape, classes: int) -> None:
        channels, *extents = input_shape
        sizes = [(n - 1) // 8 // 3 for n in extents]
        if min(sizes) < 1:
            raise ValueError(
                f"airbench: expected images of at least 25 x 25, got {extents[0]} x {extents[1]}"
            )
        inside = 8 * channels  # each direction of a patch, and its negative
        self.whiten = Conv2d(channels, inside, 2)
        self.whiten.weight.requires_grad = False
        assert self.whiten.bias is not None
        init.zeros_(self.whiten.bias)
        widths = inside, *WIDTHS
        self.blocks = Sequential(*map(Block, widths, WIDTHS))
        self.head = Linear(WIDTHS[-1] * sizes[0] * sizes[1], classes, bias=False)

    def prepare(self, images: Tensor) -> None:
        """Compute the filters that whiten patches of images (N, C, H, W)."""
        init.whiten_(self.whiten.weight, images)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        y = max_pool2d(self.blocks(gelu(self.whiten(x))), 3)
        return self.head(y.flatten(1)) * SMALL


@register("airbench")
def airbench(input_shape: Shape = (3, 32, 32), classes: int = 10) -> Module:
    """Return the network of airbench94.

    An image of 32 x 32 takes 118,147,360 MACs; there are 1,972,792 parameters. ValueError for
    images below 25 x 25."""
    return AirBench(input_shape, classes)
