"""The first network of Inception modules."""

from __future__ import annotations

from ..functional.activation import relu
from ..functional.arrange import cat
from ..nn.dropout import Dropout
from ..nn.layers import Conv2d, Linear
from ..nn.module import Module
from ..nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from ..tensor import Tensor
from .plain import check_extent, he, outcome, response_norm
from .registry import Shape, register

# The smallest images, with ceil and with auxiliary classifiers.
LEAST = {(False, False): 61, (True, False): 31, (False, True): 93, (True, True): 79}


class Inception(Module):
    """Four branches side by side, concatenated by channel.

    Convolutions 1 x 1, 3 x 3 and 5 x 5, the latter two after a reduction of the channels, and max
    pooling followed by a convolution; ReLU after each convolution."""

    def __init__(
        self, inside: int, one: int, less3: int, three: int, less5: int, five: int, projected: int
    ) -> None:
        self.conv1 = he(Conv2d(inside, one, 1))
        self.reduce3 = he(Conv2d(inside, less3, 1))
        self.conv3 = he(Conv2d(less3, three, 3, padding=1))
        self.reduce5 = he(Conv2d(inside, less5, 1))
        self.conv5 = he(Conv2d(less5, five, 5, padding=2))
        self.pool = MaxPool2d(3, 1, padding=1)
        self.project = he(Conv2d(inside, projected, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, one + three + five + projected, H, W)."""
        a = relu(self.conv1(x))
        b = relu(self.conv3(relu(self.reduce3(x))))
        c = relu(self.conv5(relu(self.reduce5(x))))
        d = relu(self.project(self.pool(x)))
        return cat((a, b, c, d), 1)


class Auxiliary(Module):
    """A classifier in the middle of the network, for training alone: means over 5 x 5, a
    convolution 1 x 1, two linear layers."""

    def __init__(self, inside: int, height: int, width: int, classes: int) -> None:
        self.pool = AvgPool2d(5, 3)
        self.conv = he(Conv2d(inside, 128, 1))
        self.fc1 = he(Linear(128 * ((height - 5) // 3 + 1) * ((width - 5) // 3 + 1), 1024))
        self.dropout = Dropout(0.7)
        self.fc2 = Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes)."""
        x = relu(self.conv(self.pool(x))).flatten(1)
        return self.fc2(self.dropout(relu(self.fc1(x))))


class GoogLeNet(Module):
    """Three convolutions, nine Inception modules, global average pooling, one linear layer (Szegedy
    et al. 2015, table 1)."""

    def __init__(
        self, input_shape: Shape, classes: int, ceil: bool, aux: bool, dropout: float
    ) -> None:
        self.conv1 = he(Conv2d(input_shape[0], 64, 7, 2, padding=3))
        self.pool1 = MaxPool2d(3, 2, ceil_mode=ceil)
        self.norm1 = response_norm()
        self.reduce2 = he(Conv2d(64, 64, 1))
        self.conv2 = he(Conv2d(64, 192, 3, padding=1))
        self.norm2 = response_norm()
        self.pool2 = MaxPool2d(3, 2, ceil_mode=ceil)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.pool3 = MaxPool2d(3, 2, ceil_mode=ceil)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.pool4 = MaxPool2d(3, 2, ceil_mode=ceil)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.pool, self.dropout = AdaptiveAvgPool2d(1), Dropout(dropout)
        self.fc = Linear(1024, classes)
        self.aux1: Auxiliary | None = None
        self.aux2: Auxiliary | None = None
        if aux:
            _, height, width = outcome(self._lower, input_shape)
            self.aux1 = Auxiliary(512, height, width, classes)
            self.aux2 = Auxiliary(528, height, width, classes)

    def _lower(self, x: Tensor) -> Tensor:
        x = self.norm1(self.pool1(relu(self.conv1(x))))
        x = self.pool2(self.norm2(relu(self.conv2(relu(self.reduce2(x))))))
        x = self.pool3(self.inception3b(self.inception3a(x)))
        return self.inception4a(x)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Return (N, classes); x (N, C, H, W).

        With auxiliary classifiers, in training, return a tuple of the network's and both auxiliary
        results."""
        low = self._lower(x)
        middle = self.inception4d(self.inception4c(self.inception4b(low)))
        x = self.pool4(self.inception4e(middle))
        x = self.pool(self.inception5b(self.inception5a(x))).flatten(1)
        logits: Tensor = self.fc(self.dropout(x))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return logits, self.aux1(low), self.aux2(middle)
        return logits


@register("googlenet")
def googlenet(
    input_shape: Shape = (3, 224, 224),
    classes: int = 1000,
    ceil: bool = True,
    aux: bool = False,
    dropout: float = 0.4,
) -> Module:
    """Return GoogLeNet, the first Inception network (Szegedy et al. 2015), see `GoogLeNet`.

    `ceil`: round extents after maxima up, to 56, 28, 14 and 7 as in the paper, which takes
    1,582,671,872 MACs for an image of 224 x 224, or down, to 55, 27, 13 and 6: 1,431,556,352.
    `aux`: in training the result is a tuple of three, the network's and those of two auxiliary
    classifiers, whose losses the paper weights with 0.3; `dropout`: the probability with which the
    last layer's inputs are dropped. ValueError for images below 31 x 31, with aux 79 x 79; where
    extents are rounded down 61 x 61 and 93 x 93."""
    check_extent("googlenet", input_shape, LEAST[bool(ceil), bool(aux)], 224)
    return GoogLeNet(input_shape, classes, ceil, aux, dropout)
