"""The weights of layers that multiply in bfloat16, for inference."""

from __future__ import annotations

from typing import TypeVar

from ..dtypes import bfloat16
from .layers import Conv2d, ConvTranspose2d, Linear
from .module import Module, convert
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = ["narrow_products"]

PRODUCTS = Linear, Conv2d, ConvTranspose2d
RECURRENT = RNN, RNNCell, LSTM, LSTMCell, GRU, GRUCell  # biases are added up in float32
M = TypeVar("M", bound=Module)


def narrow_products(model: M) -> M:
    """Make the parameters of linear and convolutional layers and the matrices of recurrent ones
    bfloat16 in place, for inference within `autocast`, and return the model.

    There they give the same bits as float32 parameters, but are not cast in each call; all others
    stay float32. ImportError where ml_dtypes is not installed; RuntimeError for
    weights that an optimizer has laid into a flat buffer."""
    dtype = bfloat16()
    for layer in model.modules():
        for name, p in layer.named_parameters() if isinstance(layer, PRODUCTS + RECURRENT) else ():
            if len(p.shape) > 1 or isinstance(layer, PRODUCTS):
                convert(name, p, dtype)
    return model
