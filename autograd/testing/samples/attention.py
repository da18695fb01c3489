"""Rows for attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...functional.attention import scaled_dot_product_attention
from ...functional.create import tensor
from ...tensor import Tensor
from .sample import Sample, normal

N, L, S, E, V = 2, 3, 5, 4, 6
READ = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
QKV = normal(N, L, E), normal(N, S, E), normal(N, S, V)


def _masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, tensor(READ), scale=0.3)


def _masked_in_torch(t: Any, *qkv: Any) -> Any:
    function = t.nn.functional.scaled_dot_product_attention
    return function(*qkv, t.tensor(READ), scale=0.3)


ROWS = [
    Sample(
        "scaled_dot_product_attention",
        scaled_dot_product_attention,
        QKV,
        lambda t, *qkv: t.nn.functional.scaled_dot_product_attention(*qkv),
        macs=N * L * S * (E + V),
        wrong=(
            (
                "(.., S, E) and (.., S, V), got (2, 3, 4), (2, 5, 4), (2, 4, 6)",
                ((2, 3, 4), (2, 5, 4), (2, 4, 6)),
            ),
        ),
    ),
    Sample(
        "scaled_dot_product_attention/masked",
        _masked,
        QKV,
        _masked_in_torch,
        macs=N * L * S * (E + V),
    ),
    Sample(
        "scaled_dot_product_attention/added mask",
        scaled_dot_product_attention,
        (*QKV, normal(L, S)),
        lambda t, *args: t.nn.functional.scaled_dot_product_attention(*args),
        macs=N * L * S * (E + V),
    ),
    Sample(
        "scaled_dot_product_attention/causal, heads",
        partial(scaled_dot_product_attention, is_causal=True),
        (normal(N, 2, L, E), normal(N, 2, S, E), normal(N, 2, S, V)),
        lambda t, *qkv: t.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True),
        macs=2 * N * L * S * (E + V),
    ),
    Sample(
        "scaled_dot_product_attention/shared heads",
        partial(scaled_dot_product_attention, enable_gqa=True),
        (normal(N, 4, L, E), normal(N, 2, S, E), normal(N, 2, S, V)),
        lambda t, *qkv: t.nn.functional.scaled_dot_product_attention(*qkv, enable_gqa=True),
        macs=4 * N * L * S * (E + V),
        wrong=(
            (
                "expected heads of key and value that divide",
                ((2, 3, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6)),
            ),
        ),
    ),
]
