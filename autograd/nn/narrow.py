"""The weights of layers that multiply in bfloat16, for inference."""

from __future__ import annotations

from typing import TypeVar

from ..dtypes import bfloat16
from .layers import Conv2d, ConvTranspose2d, Linear
from .module import Module, convert
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = ["narrow_products"]

PRODUCTS = Linear, Conv2d, ConvTranspose2d, RNN, RNNCell, LSTM, LSTMCell, GRU, GRUCell
M = TypeVar("M", bound=Module)


def narrow_products(model: M) -> M:
    """Make the matrices and filters of linear, convolutional and recurrent layers bfloat16 in
    place, for inference within `autocast`, and return the model.

    There they give the same bits as float32 weights, but are not cast in each call; biases and all
    other parameters stay float32. ImportError where ml_dtypes is not installed; RuntimeError for
    weights that an optimizer has laid into a flat buffer."""
    dtype = bfloat16()
    for layer in model.modules():
        if isinstance(layer, PRODUCTS):
            for name, weight in layer.named_parameters():
                if len(weight.shape) > 1:
                    convert(name, weight, dtype)
    return model
