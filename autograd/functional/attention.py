"""Attention, with torch.nn.functional's names and argument order."""

from __future__ import annotations

from math import sqrt

from ..dtypes import BOOL, is_floating
from ..ops import attention as ops
from ..tensor import Tensor
from .dropout import dropout

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(scale query key^T) value (N, .., L, V) (Vaswani et al. 2017).

    Query is (N, .., L, E), key (N, .., S, E), value (N, .., S, V). `attn_mask` broadcasts to (N,
    .., L, S): truth values that are True at what may be read, or numbers added to the scores. With
    `is_causal`, position l reads positions up to l. `scale` is 1 / sqrt(E) by default. `dropout_p`
    acts on the weights, also outside training. With `enable_gqa` each head of key and value, axis
    -3, serves several neighbouring ones of the query (Ainslie et al. 2023). ValueError for shapes
    that do not fit, and for both masks."""
    if enable_gqa:
        key, value = (_shared_heads(t, query) for t in (key, value))
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale)[0]


def _shared_heads(x: Tensor, query: Tensor) -> Tensor:
    """Return key or value with each head as often as queries share it."""
    heads, wanted = (t.shape[-3] if t.ndim > 2 else 0 for t in (x, query))
    if not heads or wanted % heads:
        raise ValueError(
            "scaled_dot_product_attention: expected heads of key and value that divide the query's "
            f"with enable_gqa, got {x.shape} and {query.shape}"
        )
    return x.repeat_interleave(wanted // heads, -3)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    p: float,
    is_causal: bool = False,
    factor: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `scaled_dot_product_attention` and its weights (N, .., L, S)."""
    name = "scaled_dot_product_attention"
    shapes = [t.shape for t in (query, key, value)]
    if min(map(len, shapes)) < 2 or (shapes[0][-1], shapes[1][-2]) != (
        shapes[1][-1],
        shapes[2][-2],
    ):
        raise ValueError(
            f"{name}: expected (.., L, E), (.., S, E) and (.., S, V), got "
            f"{', '.join(map(str, shapes))}"
        )
    if is_causal and mask is not None:
        raise ValueError(f"{name}: expected attn_mask or is_causal, got both")
    if is_causal:
        mask = ops.causal(rows=shapes[0][-2], columns=shapes[1][-2])
    if mask is not None and mask.dtype != BOOL and not is_floating(mask.dtype):
        raise ValueError(f"{name}: expected a mask of truth values or numbers, got {mask.dtype}")
    if factor is None:
        factor = 1 / sqrt(max(shapes[0][-1], 1))

    def drop(weights: Tensor) -> Tensor:
        return dropout(weights, p)

    return ops.attention(query, key, value, mask, factor, drop)
