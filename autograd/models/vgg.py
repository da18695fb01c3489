"""Networks of 3 x 3 convolutions (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from ..nn.activation import ReLU
from ..nn.layers import Conv2d
from ..nn.module import Module
from ..nn.norm import BatchNorm2d
from ..nn.pool import MaxPool2d
from ..suggest import unknown
from .plain import check_extent, classifier, he
from .registry import Shape, register

WIDTHS = (64, 128, 256, 512, 512)
# Convolutions of each width, by the number of layers with weights: the paper's A, B, D and E.
COUNTS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@register("vgg", depths=(*COUNTS,))
def vgg(
    input_shape: Shape = (3, 224, 224),
    classes: int = 1000,
    depth: int = 16,
    batch_norm: bool = False,
    hidden: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
) -> Module:
    """Return a network of Simonyan and Zisserman (2015), table 1.

    Five times some convolutions 3 x 3 followed by max pooling over 2 x 2, then three linear layers;
    `depth` layers with weights in all.

    `batch_norm`: normalise what each convolution returns, in place of its bias; `hidden`: widths of
    fc6 and fc7, whose results are dropped with probability `dropout`. With depth 16 an image of 224
    x 224 takes 15,470,264,320 MACs. ValueError for a depth other than 11, 13, 16, 19, and for
    images below 32 x 32."""
    if depth not in COUNTS:
        raise unknown("depth of vgg", str(depth), map(str, COUNTS))
    check_extent(f"vgg{depth}", input_shape, 32, 224)
    inside, features = input_shape[0], dict[str, Module]()
    for i, (width, count) in enumerate(zip(WIDTHS, COUNTS[depth], strict=True), 1):
        for j in range(1, count + 1):
            features[f"conv{i}_{j}"] = he(Conv2d(inside, width, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                features[f"bn{i}_{j}"] = BatchNorm2d(width)
            features[f"relu{i}_{j}"] = ReLU()
            inside = width
        features[f"pool{i}"] = MaxPool2d(2)
    return classifier(features, input_shape, hidden, classes, dropout)
