"""Images read row by row."""

from __future__ import annotations

from ..nn.layers import Linear
from ..nn.module import Module
from ..nn.recurrent import LSTM
from ..tensor import Tensor
from .registry import Shape, register


class RowLSTM(Module):
    """An LSTM that reads an image row by row, followed by a linear layer (sequential MNIST by
    rows).

    The rows are a sequence of H vectors of W C numbers; the linear layer reads the last state of
    the highest layer."""

    def __init__(self, input_shape: Shape, classes: int, hidden: int, layers: int) -> None:
        channels, _, width = input_shape
        self.lstm = LSTM(channels * width, hidden, layers)
        self.fc = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes); x (N, C, H, W)."""
        rows = x.permute(2, 0, 1, 3).flatten(2)
        _, (h, _) = self.lstm(rows)
        return self.fc(h[-1])


@register("lstm")
def lstm(
    input_shape: Shape = (1, 28, 28), classes: int = 10, hidden: int = 128, layers: int = 1
) -> Module:
    """Return an LSTM over the rows of images, see `RowLSTM`.

    `hidden`: numbers in the state of each of its `layers`."""
    return RowLSTM(input_shape, classes, hidden, layers)
