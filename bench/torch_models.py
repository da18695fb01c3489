"""The same models in torch, with the same names of parts. Import only if torch is installed."""

from __future__ import annotations

from collections import OrderedDict
from importlib import import_module
from typing import Any

from .cases import CLASSES, Case

# Imported by name, so that mypy gives the same result with and without torch.
torch: Any = import_module("torch")
nn: Any = torch.nn
functional: Any = torch.nn.functional


def create(case: Case) -> Any:
    """Return a new torch.nn.Module."""
    torch.manual_seed(0)
    channels, height, width = case.shape
    if case.model == "lenet":
        return lenet(channels)
    if case.model == "lenet5":
        return lenet5(channels)
    if case.model == "resnet20":
        return TorchResNet(channels, (16, 32, 64), 3, "A")
    if case.model == "resnet18":
        return TorchResNet(channels, (64, 128, 256, 512), 2, "B")
    if case.model == "mlp":
        return mlp(channels * height * width)
    return TorchRowLSTM(channels * width)


def named(**layers: Any) -> Any:
    """Return a Sequential of named layers."""
    return nn.Sequential(OrderedDict(layers))


def lenet(channels: int) -> Any:
    """Return Caffe's LeNet for 28 x 28 images."""
    return named(
        conv1=nn.Conv2d(channels, 20, 5),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(800, 500),
        relu=nn.ReLU(),
        fc2=nn.Linear(500, CLASSES),
    )


def lenet5(channels: int) -> Any:
    """Return LeNet-5 for 28 x 28 images, which it pads to 32 x 32."""
    return named(
        pad=nn.ZeroPad2d(2),
        c1=nn.Conv2d(channels, 6, 5),
        squash1=nn.Tanh(),
        subsample1=nn.AvgPool2d(2),
        c3=nn.Conv2d(6, 16, 5),
        squash2=nn.Tanh(),
        subsample2=nn.AvgPool2d(2),
        c5=nn.Conv2d(16, 120, 5),
        squash3=nn.Tanh(),
        flatten=nn.Flatten(),
        f6=nn.Linear(120, 84),
        squash4=nn.Tanh(),
        output=nn.Linear(84, CLASSES),
    )


def mlp(inputs: int) -> Any:
    """Return two hidden layers of 256 with ReLU."""
    hidden = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, CLASSES))


class TorchRowLSTM(nn.Module):  # type: ignore[misc]
    """An LSTM over the rows of images, hidden 128, and a linear layer on its last state."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, 128, batch_first=True)
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x: Any) -> Any:
        """Return (N, classes); x (N, C, H, W)."""
        _, (h, _) = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return self.fc(h[-1])


class TorchSubsample(nn.Module):  # type: ignore[misc]
    """Every second pixel, padded with channels of zeros before and after."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.border = (0, 0, 0, 0, more // 2, more - more // 2)

    def forward(self, x: Any) -> Any:
        """Return (N, C + more, H / 2, W / 2)."""
        return functional.pad(x[:, :, ::2, ::2], self.border)


def convolution(inside: int, outside: int, size: int, stride: int = 1) -> Any:
    """Return a convolution without bias, initialised as in He et al. (2015)."""
    layer = nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def shortcut(inside: int, outside: int, stride: int, option: str) -> Any:
    """Return the identity, or option A (zeros for new channels) or B (a convolution)."""
    if stride == 1 and inside == outside:
        return nn.Identity()
    if option == "A":
        return TorchSubsample(outside - inside)
    return nn.Sequential(convolution(inside, outside, 1, stride), nn.BatchNorm2d(outside))


class TorchBasicBlock(nn.Module):  # type: ignore[misc]
    """relu(x + f(x)), where f is two 3 x 3 convolutions."""

    def __init__(self, inside: int, width: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = convolution(inside, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(inside, width, stride, option)

    def forward(self, x: Any) -> Any:
        """Return (N, width, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x), inplace=True)


class TorchResNet(nn.Module):  # type: ignore[misc]
    """A 3 x 3 convolution, stages of n basic blocks, global average pooling, a linear layer."""

    def __init__(self, channels: int, widths: tuple[int, ...], n: int, option: str) -> None:
        super().__init__()
        inside = widths[0]
        self.conv1 = convolution(channels, inside, 3)
        self.bn1 = nn.BatchNorm2d(inside)
        self.stages = len(widths)
        for k, width in enumerate(widths):
            blocks = [TorchBasicBlock(inside, width, 2 if k else 1, option)]
            blocks += [TorchBasicBlock(width, width, 1, option) for _ in range(n - 1)]
            setattr(self, f"stage{k + 1}", nn.Sequential(*blocks))
            inside = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, CLASSES)

    def forward(self, x: Any) -> Any:
        """Return (N, classes); x (N, C, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        for k in range(self.stages):
            x = getattr(self, f"stage{k + 1}")(x)
        return self.fc(self.pool(x).flatten(1))
