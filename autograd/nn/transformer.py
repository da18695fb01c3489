"""Layers of transformers (Vaswani et al. 2017). Arguments, names and shapes are torch's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import inf
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from ..device import Device, layer_type
from ..dtypes import FLOAT32
from ..functional.activation import gelu, relu
from ..functional.create import from_numpy
from ..suggest import unknown
from ..tensor import Tensor
from . import init
from .attention import MultiheadAttention
from .containers import ModuleList
from .dropout import Dropout
from .layers import Linear
from .module import Module
from .norm import LayerNorm

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = str | Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu": relu}


class _Layer(Module):
    """Attentions and two linear layers for each position, all with residuals and layer norms.

    The norms follow the sums or, with `norm_first`, precede what is added (Xiong et al. 2020).
    `activation` is "relu", "gelu" or a function. ValueError for an unknown name."""

    shown = ("norm_first",)
    attentions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                raise unknown("activation", activation, ACTIVATIONS)
            activation = ACTIVATIONS[activation]
        self.activation, self.batch_first, self.norm_first = activation, batch_first, norm_first
        for name in self.attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=True, dtype=dtype
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        for i in range(1, len(self.attentions) + 2):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
            setattr(self, f"dropout{i}", Dropout(dropout))

    def _turned(self, x: Tensor) -> Tensor:
        """Return samples first, for dropout goes by the sample; or turn the result back."""
        return x if x.ndim == 2 or self.batch_first else x.transpose(0, 1)

    def _add(self, x: Tensor, number: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x with what is computed from it, normalised before or after."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + cast("Tensor", dropout(compute(norm(x))))
        return cast("Tensor", norm(x + dropout(compute(x))))

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return y


def _masks(mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> dict[str, Any]:
    return {
        "attn_mask": mask, "key_padding_mask": padding, "is_causal": is_causal,
        "need_weights": False,
    }  # fmt: skip


class TransformerEncoderLayer(_Layer):
    """Self-attention and two linear layers for each position, both with residuals and layer norms.

    The norms follow the sums or, with `norm_first`, precede what is added (Xiong et al. 2020).
    `activation` is "relu", "gelu" or a function. ValueError for an unknown name."""

    attentions = ("self_attn",)
    self_attn: MultiheadAttention

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return src's shape (L, N, E), with `batch_first` (N, L, E), or (L, E); masks are those of
        `MultiheadAttention`."""
        masks = _masks(src_mask, src_key_padding_mask, is_causal)
        x = self._add(self._turned(src), 1, lambda x: self.self_attn(x, x, x, **masks)[0])
        return self._turned(self._add(x, 2, self._feed_forward))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to a memory, such as an encoder's result, and two linear layers for
    each position; all else as in `TransformerEncoderLayer`."""

    attentions = ("self_attn", "multihead_attn")
    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return tgt's shape (T, N, E), with `batch_first` (N, T, E), or (T, E); memory is
        (S, N, E), likewise. Masks are those of `MultiheadAttention`."""
        own = _masks(tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = _masks(memory_mask, memory_key_padding_mask, memory_is_causal)
        m = self._turned(memory)
        x = self._add(self._turned(tgt), 1, lambda x: self.self_attn(x, x, x, **own)[0])
        x = self._add(x, 2, lambda x: self.multihead_attn(x, m, m, **other)[0])
        return self._turned(self._add(x, 3, self._feed_forward))


class _Stack(Module):
    """Copies of a layer, one after the other, and a norm of the last result, if one is given."""

    norm: Module | None

    def _copy(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        if num_layers < 1:
            name = type(self).__name__
            raise ValueError(f"{name}: expected num_layers of at least 1, got {num_layers}")
        self.layers = ModuleList(deepcopy(layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm

    def _run_layers(self, x: Tensor, *args: Any, **masks: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *args, **masks)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """Copies of an encoder layer, one after the other, and a norm of the last result, if one is
    given. The copies begin with the same weights; `enable_nested_tensor` and `mask_check`, which
    choose among torch's implementations, change nothing. ValueError for no layers."""

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        self._copy(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return src's shape; arguments are those of a layer."""
        return self._run_layers(
            src, src_mask=mask, src_key_padding_mask=src_key_padding_mask,
            is_causal=bool(is_causal),
        )  # fmt: skip


class TransformerDecoder(_Stack):
    """Copies of a decoder layer, one after the other, and a norm of the last result, if one is
    given. The copies begin with the same weights. ValueError for no layers."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self._copy(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return tgt's shape; arguments are those of a layer."""
        return self._run_layers(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal), memory_is_causal=memory_is_causal,
        )  # fmt: skip


class Transformer(Module):
    """An encoder and a decoder, both with a norm at the end. Matrices begin with Xavier's uniform
    numbers."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        *,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        options: tuple[Any, ...] = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype,
        )  # fmt: skip
        norms = [LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype) for _ in range(2)]
        self.encoder = TransformerEncoder(
            TransformerEncoderLayer(*options), num_encoder_layers, norms[0]
        )
        self.decoder = TransformerDecoder(
            TransformerDecoderLayer(*options), num_decoder_layers, norms[1]
        )
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return tgt's shape; arguments are those of encoder and decoder."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        y: Tensor = self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal,
        )  # fmt: skip
        return y

    @staticmethod
    def generate_square_subsequent_mask(sz: int, dtype: npt.DTypeLike = FLOAT32) -> Tensor:
        """Return the mask (sz, sz) that is -inf at later positions, else 0."""
        return from_numpy(np.triu(np.full((sz, sz), -inf), 1)).astype(dtype)
