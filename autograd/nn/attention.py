"""Attention layers. Arguments, parameter names, shapes and initial numbers are torch's."""

from __future__ import annotations

from math import inf

import numpy.typing as npt

from ..device import Device, layer_type
from ..dtypes import BOOL
from ..functional.arrange import cat, pad, where
from ..functional.attention import attention
from ..functional.linear import linear
from ..ops.attention import causal
from ..tensor import Parameter, Tensor
from . import init
from .layers import Linear, parameter
from .module import Module

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention of several heads, side by side (Vaswani et al. 2017).

    Each of `num_heads` heads attends with embed_dim / num_heads numbers of the projected query, key
    and value; out_proj mixes their results. Parameters: in_proj_weight (3 E, E), the three
    projections one below the other, or, where `kdim` or `vdim` differ from embed_dim,
    q_proj_weight, k_proj_weight, v_proj_weight; in_proj_bias (3 E,); those of out_proj. `dropout`
    acts on the attention weights in training. `add_bias_kv` adds a position to the keys and values
    that every query may read, bias_k and bias_v (1, 1, E); `add_zero_attn` one of zeros. ValueError
    where num_heads does not divide embed_dim."""

    shown = ("embed_dim", "num_heads")
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                "MultiheadAttention: expected num_heads that divide embed_dim, got "
                f"{num_heads} and {embed_dim}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: expected dropout in [0, 1], got {dropout}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        widths = embed_dim, kdim or embed_dim, vdim or embed_dim
        self.packed = widths == (embed_dim,) * 3
        if self.packed:
            self.in_proj_weight = parameter(3 * embed_dim, embed_dim, dtype=dtype)
        else:
            for name, width in zip("qkv", widths, strict=True):
                setattr(self, f"{name}_proj_weight", parameter(embed_dim, width, dtype=dtype))
        for p in self.parameters():
            init.xavier_uniform_(p)
        self.register_parameter(
            "in_proj_bias", parameter(3 * embed_dim, dtype=dtype) if bias else None
        )
        for name in ("bias_k", "bias_v"):
            row = parameter(1, 1, embed_dim, dtype=dtype) if add_bias_kv else None
            self.register_parameter(name, row)
            if row is not None:
                init.xavier_normal_(row)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, of the query's shape, and the attention weights (N, L, S), which are
        the heads' mean or, without `average_attn_weights`, (N, heads, L, S); None without
        `need_weights`.

        Query is (L, N, E), key and value (S, N, ..); (N, L, E) with `batch_first`; or all without
        N. Masks are truth values that are True at what must not be read, or numbers added to the
        scores: key_padding_mask (N, S), attn_mask (L, S) or (N heads, L, S). `is_causal` without an
        attn_mask lets position l read positions up to l. ValueError for shapes that do not fit."""
        if any(t.ndim != query.ndim or t.ndim not in (2, 3) for t in (query, key, value)):
            shapes = ", ".join(str(t.shape) for t in (query, key, value))
            raise ValueError(
                f"MultiheadAttention: expected query, key, value of 2 or of 3 axes, got {shapes}"
            )
        q, k, v = (self._heads(t) for t in self._projected(query, key, value))
        columns = k.shape[2]
        if is_causal and attn_mask is None:
            mask: Tensor | None = Tensor(causal(rows=q.shape[2], columns=columns))
        else:
            mask = _kept(attn_mask)
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(-1, self.num_heads, *mask.shape[1:])
        padding = _kept(key_padding_mask)
        if padding is not None:
            mask = _both(mask, padding.reshape(-1, 1, 1, padding.shape[-1]))
        k, v = self._extended(k, self.bias_k), self._extended(v, self.bias_v)
        if mask is not None and (more := k.shape[2] - columns):
            mask = pad(mask, (0, more), value=float(mask.dtype == BOOL))
        y, weights = attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if query.ndim == 3 and not self.batch_first:
            y = y.transpose(0, 1)
        if query.ndim == 2:
            y, weights = y.squeeze(0), weights.squeeze(0)
        if not need_weights:
            return y, None
        return y, weights.mean(weights.ndim - 3) if average_attn_weights else weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return the projections of query, key and value: one product where all are one tensor."""
        if self.packed and query is key and key is value:
            return linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        weights = (
            self.in_proj_weight.chunk(3)
            if self.packed
            else [getattr(self, f"{name}_proj_weight") for name in "qkv"]
        )
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [*map(linear, (query, key, value), weights, biases)]

    def _heads(self, x: Tensor) -> Tensor:
        """Return (N, heads, L, E / heads)."""
        x = x.reshape(*x.shape[:-1], self.num_heads, self.embed_dim // self.num_heads)
        if x.ndim == 3:
            return x.transpose(0, 1).unsqueeze(0)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _extended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return keys or values (N, heads, S, E / heads) with the positions of `add_bias_kv` and
        `add_zero_attn` behind them."""
        if bias is not None:
            row = bias.reshape(1, self.num_heads, 1, -1).expand(len(x), -1, -1, -1)
            x = cat([x, row], 2)
        return pad(x, (0, 0, 0, 1)) if self.add_zero_attn else x


def _kept(mask: Tensor | None) -> Tensor | None:
    """Return a mask with truth values turned round: True at what may be read."""
    return ~mask if mask is not None and mask.dtype == BOOL else mask


def _both(mask: Tensor | None, padding: Tensor) -> Tensor:
    """Return the mask of what two masks let through."""
    if mask is None:
        return padding
    if mask.dtype == padding.dtype == BOOL:
        return mask & padding
    return _added(mask) + _added(padding)


def _added(mask: Tensor) -> Tensor:
    """Return a mask as numbers to add to scores."""
    return where(mask, 0.0, -inf) if mask.dtype == BOOL else mask
