"""Residual networks for large images (He et al. 2016, section 4.1)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from ..functional.activation import relu
from ..nn.layers import Identity, Linear
from ..nn.module import Module
from ..nn.norm import BatchNorm2d
from ..nn.pool import AdaptiveAvgPool2d, MaxPool2d
from ..suggest import unknown
from ..tensor import Tensor
from .registry import Shape, register
from .resnet import BasicBlock, Block, Bottleneck, StrideIn, convolution, stage

Stem = Literal["7x7", "3x3"]
SMALL = 64  # images below this extent have the small stem
# Blocks of each stage, by the number of layers with weights.
COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip


class ImageNetResNet(Module):
    """A stem, four stages of blocks, global average pooling, a linear layer.

    The stages' blocks have `width`, 2, 4 and 8 times as many channels, and the extent halves from
    one to the next."""

    def __init__(
        self, input_shape: Shape, classes: int, depth: int, width: int, stem: Stem,
        stride_in: StrideIn,
    ) -> None:  # fmt: skip
        kind: type[Block] = BasicBlock if depth < 50 else Bottleneck
        more: dict[str, Any] = {} if depth < 50 else {"stride_in": stride_in}
        make, (a, b, c, d) = partial(kind, option="B", **more), COUNTS[depth]
        wide = kind.widening * width
        size, stride = (7, 2) if stem == "7x7" else (3, 1)
        self.conv1 = convolution(input_shape[0], width, size, stride)
        self.bn1 = BatchNorm2d(width)
        self.maxpool = MaxPool2d(3, 2, padding=1) if stem == "7x7" else Identity()
        self.stage1 = stage(make, width, width, a, 1)
        self.stage2 = stage(make, wide, 2 * width, b, 2)
        self.stage3 = stage(make, 2 * wide, 4 * width, c, 2)
        self.stage4 = stage(make, 4 * wide, 8 * width, d, 2)
        self.pool = AdaptiveAvgPool2d(1)
        self.fc = Linear(8 * wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes); x (N, C, H, W)."""
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.fc(self.pool(x).flatten(1))


def imagenet_resnet(
    input_shape: Shape = (3, 224, 224),
    classes: int = 1000,
    depth: int = 50,
    stride_in: StrideIn = "3x3",
    stem: Stem | None = None,
    width: int = 64,
) -> Module:
    """Return a residual network of 18, 34 (basic blocks), 50, 101 or 152 layers (bottlenecks), see
    `ImageNetResNet`; the names resnet18 to resnet152 are these, also where 6n + 2 layers would make
    a network for small images, which `create("resnet", depth=50)` gives.

    `stride_in`: the convolution of a bottleneck that has the stride, "3x3" as is usual now ("v1.5")
    or "1x1" as in the paper: 4,089,184,256 and 3,857,973,248 MACs for an image of 224 x 224 and
    ResNet-50. `stem`: a convolution "7x7" with stride 2 and a maximum over 3 x 3 with stride 2, or
    "3x3" alone, which is taken for images below 64 x 64 unless it is given; `width`: channels of
    the stem, 64 in the paper. ValueError for another depth, stride_in or stem."""
    if depth not in COUNTS:
        raise unknown("depth of imagenet_resnet", str(depth), map(str, COUNTS))
    if stride_in not in ("1x1", "3x3"):
        raise unknown(f"stride_in of resnet{depth}", stride_in, ("1x1", "3x3"))
    if depth < 50 and stride_in == "1x1":
        raise ValueError(f"resnet{depth}: basic blocks have no 1x1; leave stride_in out")
    chosen = stem or ("3x3" if min(input_shape[1:]) < SMALL else "7x7")
    if chosen not in ("3x3", "7x7"):
        raise unknown(f"stem of resnet{depth}", chosen, ("3x3", "7x7"))
    return ImageNetResNet(input_shape, classes, depth, width, chosen, stride_in)


for _depth in COUNTS:
    register(f"resnet{_depth}")(partial(imagenet_resnet, depth=_depth))
